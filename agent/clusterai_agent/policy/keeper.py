"""Keeps deciding whether this node works, and remembers across restarts what it decided and by which settings."""

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

from clusterai.errors import ClusterAIError
from clusterai.files import BadFile, load_json, remove, write_atomic
from clusterai.policy import MachineClass, Settings, defaults, overlaid, written
from clusterai.policy_wire import settings_from_wire
from clusterai.v1 import types_pb2 as types
from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import PolicyStatus
from clusterai_agent.home import Home
from clusterai_agent.policy.decide import MOST_CHANGES, Decision, Memory, decide
from clusterai_agent.policy.pause import read_pause
from clusterai_agent.policy.readings import Reader

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_SERVERS_SLACK_SECONDS = 20.0


class PolicyKeeper:
    """The node's own policy. `look` decides once, `run` for ever."""

    def __init__(self, home: Home, machine: MachineClass, reader: Reader) -> None:
        self.machine = machine
        self._file, self._pause_file = home.policy, home.pause
        self._reader = reader
        self._settings, self._memory = _remembered(self._file, machine)
        self._kept: bytes = b""
        self._wake = asyncio.Event()
        self.status = PolicyStatus()

    def want(self, spec: NodeSpec) -> None:
        """Take the server's settings; the newest count."""
        settings = settings_from_wire(spec.policy) if spec.HasField("policy") else defaults(self.machine)
        if settings != self._settings:
            self._settings = settings
            self._wake.set()

    async def run(self, changed: Callable[[], None]) -> None:
        """Look every two seconds, and at once when the settings change; say when people should hear of it."""
        while True:
            self._wake.clear()
            if await self.look():
                changed()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()

    def rest_is_overdue(self, now: float) -> bool:
        """Whether at this Unix time its work should have left long ago: the server moves it away within a deadline."""
        memory = self._memory
        return memory is not None and not memory.works and (
            now > memory.since + self._settings.drain_seconds + _SERVERS_SLACK_SECONDS
        )

    async def look(self) -> bool:
        """Decide by what is known now; return whether there is anything new to tell."""
        pause = read_pause(self._pause_file)
        decision = decide(await self._reader.read(self._settings, pause), self._settings, self._memory)
        self._memory = decision.memory
        self._reader.set_pace(working=decision.works)
        if decision.pause_is_over:
            _end_pause(self._pause_file)
        self._keep(decision.memory)
        status = _to_wire(decision)
        if status == self.status:
            return False
        if status.state != self.status.state:
            log.info("this node %s", "works" if decision.works else f"rests: {decision.sentence}")
        self.status = status
        return True

    def _keep(self, memory: Memory) -> None:
        """Write what must outlive the agent, whenever it changed."""
        settings = {key: written(value) for key, value in asdict(self._settings).items()}
        content = {"machine_class": self.machine.value, "settings": settings, "memory": asdict(memory)}
        data = json.dumps(content, indent=1).encode() + b"\n"
        if data == self._kept:
            return
        self._kept = data
        try:
            write_atomic(self._file, data)
        except ClusterAIError as error:
            log.warning("%s; %s", str(error), error.advice)


def _to_wire(decision: Decision) -> PolicyStatus:
    state = types.POLICY_STATE_WORKING if decision.works else types.POLICY_STATE_RESTING
    return PolicyStatus(
        state=state, reason_code=decision.code, reason=decision.sentence, since_unix_seconds=decision.memory.since
    )


def _end_pause(file: Path) -> None:
    try:
        remove(file)
    except ClusterAIError as error:
        log.warning("the pause is over, but its file stays: %s", error)


def _remembered(file: Path, machine: MachineClass) -> tuple[Settings, Memory | None]:
    """Return the settings and the decision of before; the defaults where there are none, or of another class."""
    if not file.exists():
        return defaults(machine), None
    try:
        content = load_json(file)
        settings = _settings(content.get("settings"), machine)
        memory = _memory(content.get("memory"))
    except (BadFile, ValueError) as error:
        log.warning("%s says nothing that can be used (%s): deciding anew", file, error)
        return defaults(machine), None
    return (settings, memory) if content.get("machine_class") == machine.value else (defaults(machine), None)


def _settings(values: object, machine: MachineClass) -> Settings:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ValueError("its settings")
    return overlaid(defaults(machine), values)


def _memory(values: object) -> Memory:
    """Return the memory in a file; raise ValueError when it is none."""
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(Memory)}:
        raise ValueError("its memory")
    times = [values["since"], *(values["changes"] if isinstance(values["changes"], list) else [None])]
    works, *latches = switches = [values[name] for name in ("works", "low", "hot", "cpu_hot")]
    if not all(type(one) in (int, float) and math.isfinite(one) for one in times) or len(times) > MOST_CHANGES + 1:
        raise ValueError("its times")
    if not all(type(one) is bool for one in switches):
        raise ValueError("its switches")
    since, *changes = map(float, times)
    low, hot, cpu_hot = latches
    return Memory(works, since, low, hot, cpu_hot, tuple(changes))
