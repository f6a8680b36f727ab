"""`clusterai-agent status` and `facts`: what this machine knows of itself, without the server."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

from clusterai.errors import ClusterAIError, Status
from clusterai.pythons import available_minors
from clusterai.termux import termux_prefix
from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors import make_collectors
from clusterai_agent.collectors.termux_api import Phone
from clusterai_agent.config import AgentConfig
from clusterai_agent.errors import NotJoined
from clusterai_agent.facts import read_facts
from clusterai_agent.home import Home
from clusterai_agent.nvml import Nvml
from clusterai_agent.phone_boot import Boot
from clusterai_agent.report import read_status, status_line
from clusterai_agent.sampling import Sampler, read_into

_SAMPLE_SECONDS = 0.3  # rates need two readings
_UNDER_WAY = ("building", "pulling")


class NotRunning(ClusterAIError):
    code, status = "not-running", Status.FAILED
    message = "the agent does not run on this machine"
    hint = "{how}"

    def __init__(self) -> None:
        prefix = termux_prefix()
        log = f"{prefix}/var/log/sv/clusterai-agent/current"
        on_a_phone = f"start it with `sv-enable clusterai-agent` in a new session of Termux, and see {log}"
        elsewhere = "start it with `systemctl start clusterai-agent`, and see `journalctl -u clusterai-agent`"
        super().__init__(how=on_a_phone if prefix else elsewhere)


async def show_status(config: AgentConfig, *, as_json: bool) -> None:
    """Print what the running agent wrote last.

    Raises:
        NotRunning, NotJoined: there is no agent to ask.
    """
    facts = read_status(config.state)
    if facts is None or not _alive(facts.get("process_id")):
        home = Home(config.state.directory)
        with contextlib.suppress(PermissionError):  # the state directory is not everybody's to look into
            if not home.joined:
                raise NotJoined(file=home.certificate)
        raise NotRunning
    if prefix := termux_prefix():
        facts["start_after_reboot"] = Boot(prefix, config.state.directory).known()
    print(json.dumps(facts, indent=2) if as_json else "\n".join(_status_lines(facts)))


async def show_facts(config: AgentConfig, *, as_json: bool) -> None:
    """Print the machine's facts and a sample, as they would be sent."""
    nvml = Nvml()
    facts = await asyncio.to_thread(read_facts, config, nvml, available_minors)
    prefix = termux_prefix()
    collectors = make_collectors(config.state.compute_directory, nvml, Phone(prefix) if prefix else None)
    Sampler(collectors).sample()  # sets the marks that rates count from
    await asyncio.sleep(_SAMPLE_SECONDS)
    sample = Sample()
    for collector in collectors:
        read_into(collector, sample)
    nvml.close()
    shown = {"facts": _as_dict(facts), "sample": _as_dict(sample)}
    print(json.dumps(shown, indent=2) if as_json else "\n".join(_fact_lines(shown)))


def _alive(process_id: object) -> bool:
    if not isinstance(process_id, int) or process_id <= 0:
        return False
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _status_lines(facts: Mapping[str, Any]) -> list[str]:
    lines = [f"{facts.get('node_id', 'this node')}: {status_line(facts)}"]
    if facts.get("hint"):
        lines.append(f"  {facts['hint']}")
    if facts.get("message"):
        lines.append(f"  {facts['message']}")
    environments = (facts.get("environment", {}), *facts.get("further_environments", []))
    known = (one for one in environments if one.get("state", "unspecified") != "unspecified")
    lines += [f"environment {one['hash']}: {one['state']}{_because(one)}" for one in known]
    lines += [f"worker {worker['name']}: {worker['state']}{_because(worker)}" for worker in facts.get("workers", [])]
    lines += _policy_lines(facts.get("policy", {}))
    lines += _ollama_lines(facts.get("ollama", {}))
    lines += _phone_lines(facts)
    if expires := facts.get("certificate_expires_unix_seconds"):
        lines.append(f"certificate valid until {time.strftime('%F %T', time.localtime(expires))}")
    return lines


def _policy_lines(policy: Mapping[str, Any]) -> list[str]:
    """Whether it works, where that is not all there is to say."""
    if not policy.get("reason"):
        return []
    since = time.strftime("%F %T", time.localtime(policy.get("since_unix_seconds", 0)))
    return [f"policy: {policy.get('state')} since {since} ({policy['reason']})"]


def _phone_lines(facts: Mapping[str, Any]) -> list[str]:
    """What a phone's owner should know: what Android hides, and whether it comes back after a reboot."""
    if "start_after_reboot" not in facts:
        return []
    lines = [f"no {name}: {reason}" for name, reason in facts.get("absent", {}).items()]
    return lines + [facts["start_after_reboot"]] * bool(facts["start_after_reboot"])


def _ollama_lines(ollama: Mapping[str, Any]) -> list[str]:
    if ollama.get("state", "absent") in ("absent", "unspecified"):
        return []
    lines = [f"ollama {ollama['version']}: {ollama['state']}{_because(ollama)}"]
    lines += [f"  {finding}" for finding in ollama["findings"]]
    if ollama["gate"]["state"] != "unspecified":
        lines.append(f"gate on port {ollama['gate']['port']}: {ollama['gate']['state']}{_because(ollama['gate'])}")
    for model in ollama["models"]:
        loaded = ", loaded" if model["name"] in ollama["loaded"] else ""
        lines.append(f"model {model['name']}: {model['size_bytes'] / 1e9:.1f} GB{loaded}")
    return lines + [f"model {pull['name']}: {pull['state']}{_because(pull)}" for pull in ollama["pulls"]]


def _because(shown: Mapping[str, Any]) -> str:
    ratio = f" {shown['progress_ratio']:.0%}" if shown.get("progress_ratio") and shown["state"] in _UNDER_WAY else ""
    reason = f" ({shown['reason']})" if shown.get("reason") else ""
    return ratio + reason + (f"; {shown['hint']}" if shown.get("hint") else "")


def _fact_lines(shown: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for title, values in shown.items():
        lines += [f"{title}:", *(f"  {key:<36} {_plain(value)}" for key, value in values.items())]
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{key}={_plain(item)}" for key, item in value.items())
    return str(value)


def _as_dict(message: Any) -> dict[str, Any]:
    """The message with its own field names; 64-bit numbers as numbers, which protobuf's JSON makes strings."""
    shown: dict[str, Any] = _numbers(MessageToDict(message, preserving_proto_field_name=True))
    return shown


def _numbers(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item, name) for item in value]
    if isinstance(value, str) and name.endswith(("_bytes", "_per_second")) and value.isdigit():
        return int(value)
    return value
