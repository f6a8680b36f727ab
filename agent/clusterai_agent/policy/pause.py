"""The owner's pause: `pause.json` in the state directory, written by `clusterai-agent pause`, read by the agent."""

import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

from clusterai.errors import ClusterAIError, Status
from clusterai.files import BadFile, CannotWrite, load_json, remove, write_atomic
from clusterai.termux import is_android
from clusterai_agent.collectors.battery import read_battery
from clusterai_agent.config import AgentConfig
from clusterai_agent.home import Home
from clusterai_agent.policy.decide import Pause

UNTIL_CHARGED = "until-charged"
_SPAN = re.compile(r"(\d{1,5})(m|h|d)", re.ASCII)
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_LONGEST_SECONDS = 30 * 86400
_LIMIT = 4096


class BadPause(ClusterAIError):
    code, status = "bad-pause", Status.USAGE
    message = "{text!r} is no time to pause for"
    hint = "write 90m, 2h or 3d (30 days at most), or until-charged"


class NoBattery(ClusterAIError):
    code, status = "no-battery", Status.USAGE
    message = "this machine shows no battery that could be charged"
    hint = "pause for a time: clusterai-agent pause 2h"


def read_pause(file: Path) -> Pause | None:
    """Return the pause that is on; one that cannot be read is one all the same: its owner wanted rest."""
    if not file.exists():
        return None
    try:
        content = load_json(file, limit=_LIMIT)
    except BadFile:
        return Pause(broken=True) if file.exists() else None  # it may have been removed just now
    until, charged = content.get("until_unix_seconds", 0), content.get("until_charged", False)
    if type(until) not in (int, float) or not math.isfinite(until) or type(charged) is not bool:
        return Pause(broken=True)
    return Pause(float(until), charged)


async def pause(config: AgentConfig, text: str, battery: Callable[[], object] = read_battery) -> None:
    """Write the pause and say what follows.

    Raises:
        BadPause, NoBattery: it cannot be.
        CannotWrite: who calls is neither root nor the agent's user.
    """
    if text == UNTIL_CHARGED:
        if not is_android() and battery() is None:
            raise NoBattery
        content, how_long = {"until_charged": True}, "until its battery is charged"
    else:
        until = time.time() + parse_span(text)
        content = {"until_unix_seconds": until}  # type: ignore[dict-item]
        how_long = f"until {time.strftime('%F %T', time.localtime(until))}"
    write_atomic(Home(config.state.directory).pause, json.dumps(content).encode() + b"\n", 0o644)
    print(f"This machine rests {how_long}: its work leaves first. `clusterai-agent resume` ends that.")


async def resume(config: AgentConfig) -> None:
    """End the pause."""
    file = Home(config.state.directory).pause
    try:
        was_paused = file.exists()
    except PermissionError as error:
        raise CannotWrite(file, error) from error
    remove(file)
    print("The pause is over: this machine works when its policy lets it." if was_paused else "There is no pause.")


def parse_span(text: str) -> float:
    """Return the seconds in `90m`, `2h`, `3d`; raise BadPause."""
    match = _SPAN.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise BadPause(text=text[:40])
    return float(seconds)
