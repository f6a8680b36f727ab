"""What the running agent shows on its own machine: a file for `clusterai-agent status`, and systemd's status line."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from clusterai.errors import ClusterAIError
from clusterai.files import load_json, write_atomic
from clusterai.program import Notifier
from clusterai.v1.node_pb2 import NodeStatus
from clusterai.v1.types_pb2 import (
    EnvironmentState,
    EnvironmentStatus,
    OllamaStatus,
    PolicyState,
    PolicyStatus,
    PullState,
    ServiceState,
    WorkerState,
)
from clusterai_agent.config import StateSection

log = logging.getLogger(__name__)

FILE_NAME = "agent-status.json"


def read_status(section: StateSection) -> dict[str, Any] | None:
    """Return what the agent wrote last; None when it does not run. Raises BadFile."""
    file = section.shown_in / FILE_NAME
    return load_json(file) if file.exists() else None


class Report:
    """Collects what there is to show, and writes it whenever it changed; never with each heartbeat."""

    def __init__(self, section: StateSection, notifier: Notifier) -> None:
        self._file = section.shown_in / FILE_NAME
        with contextlib.suppress(OSError):  # writing says what is wrong
            self._file.parent.mkdir(parents=True, exist_ok=True)
        self._notifier = notifier
        self._shown: dict[str, Any] = {}
        self._facts: dict[str, Any] = {"process_id": os.getpid(), "state": "starting"}
        self._told: set[str] = set()  # what was advised since the last session: one line for each in the log

    def connected(self, address: str) -> None:
        """A session stands."""
        self._told.clear()
        if self._facts["state"] != "connected":
            log.info("connected to %s", address)
        self._set(state="connected", server=address, reason="", hint="", since=self._since("connected"))

    def disconnected(self, reason: str, hint: str = "") -> None:
        """There is no session, for this reason."""
        if hint not in self._told:
            self._told.add(hint)
            log.warning("no session: %s; %s", reason, hint)
        self._set(state="unreachable", reason=reason, hint=hint, since=self._since("unreachable"))

    def waits(self, state: str, reason: str, hint: str) -> None:
        """The agent stays up but does nothing until a person acts."""
        log.error("%s; %s", reason, hint)
        self._set(state=state, reason=reason, hint=hint, since=self._since(state))

    def identity(self, node_id: str, cluster_id: str, certificate_expires: float) -> None:
        """Who this node is."""
        self._set(node_id=node_id, cluster_id=cluster_id, certificate_expires_unix_seconds=certificate_expires)

    def absent(self, readings: Iterable[tuple[str, str]]) -> None:
        """Which collectors read nothing here, and why."""
        self._set(absent=dict(readings))

    def node_status(self, status: NodeStatus) -> None:
        """What the supervisor observes."""
        self._set(**described(status))

    def status_line(self) -> str:
        """One line for `systemctl status`."""
        return status_line(self._facts)

    def remove(self) -> None:
        """Nothing runs any more."""
        with contextlib.suppress(OSError):  # the directory may be gone, or no longer ours: the end is the end
            self._file.unlink(missing_ok=True)

    def _since(self, state: str) -> float:
        same = self._facts["state"] == state
        return float(self._facts["since"]) if same else time.time()

    def _set(self, **facts: Any) -> None:
        self._facts.update(facts)
        if self._facts == self._shown:
            return
        self._shown = dict(self._facts)
        self._notifier.status(self.status_line())
        try:
            write_atomic(self._file, json.dumps(self._facts, indent=1).encode() + b"\n", 0o644)
        except ClusterAIError as error:
            log.warning("%s; %s", str(error), error.advice)


def described(status: NodeStatus) -> dict[str, Any]:
    """Return the node's status as JSON has it: names of states in lower case, as `clusteractl --json`."""
    return {
        "observed_generation": status.observed_generation,
        "message": status.message,
        "environment": _environment(status.environment),
        "further_environments": [_environment(further) for further in status.further_environments],
        "workers": [
            {
                "name": worker.worker_name,
                "state": WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower(),
                "reason": worker.reason,
                "process_id": worker.process_id,
            }
            for worker in status.workers
        ],
        "policy": _policy(status.policy),
        "ollama": _ollama(status.ollama) if status.HasField("ollama") else {},
    }


def _environment(status: EnvironmentStatus) -> dict[str, Any]:
    return {
        "hash": status.environment_hash,
        "state": EnvironmentState.Name(status.state).removeprefix("ENVIRONMENT_STATE_").lower(),
        "progress_ratio": round(status.progress_ratio, 3),
        "reason": status.reason,
        "hint": status.hint,
    }


def _policy(status: PolicyStatus) -> dict[str, Any]:
    return {
        "state": PolicyState.Name(status.state).removeprefix("POLICY_STATE_").lower(),
        "reason_code": status.reason_code,
        "reason": status.reason,
        "since_unix_seconds": status.since_unix_seconds,
    }


def _ollama(status: OllamaStatus) -> dict[str, Any]:
    return {
        **_service(status),
        "version": status.version,
        "models": [
            {"name": model.model, "size_bytes": model.size_bytes, "digest": model.digest.hex()}
            for model in status.models
        ],
        "loaded": [loaded.model for loaded in status.loaded],
        "pulls": [
            {
                "name": pull.model,
                "state": PullState.Name(pull.state).removeprefix("PULL_STATE_").lower(),
                "progress_ratio": round(pull.completed_bytes / pull.total_bytes, 3) if pull.total_bytes else 0.0,
                "reason": pull.reason,
                "hint": pull.hint,
            }
            for pull in status.pulls
        ],
        "gate": _service(status.gate) | {"port": status.gate.port},
        "findings": list(status.findings),
    }


def _service(status: Any) -> dict[str, Any]:
    state = ServiceState.Name(status.state).removeprefix("SERVICE_STATE_").lower()
    return {"state": state, "reason": status.reason, "hint": status.hint}


def status_line(facts: Mapping[str, Any]) -> str:
    """Return the state in a line."""
    since = time.strftime("%F %T", time.localtime(float(facts.get("since", 0) or 0)))
    workers = facts.get("workers", [])
    match facts.get("state"):
        case "connected" if (policy := facts.get("policy", {})).get("state") == "resting":
            return f"resting: {policy.get('reason', '')}; {_work(facts, workers)}; server {facts.get('server', '')}"
        case "connected":
            return f"ready: {_work(facts, workers)}; server {facts.get('server', '')}"
        case "unreachable":
            return f"server unreachable since {since}: {facts.get('reason', '')}"
        case "starting":
            return "starting"
        case other:
            return f"{other} since {since}: {facts.get('reason', '')}"


def _work(facts: Mapping[str, Any], workers: list[Mapping[str, Any]]) -> str:
    environment = facts.get("environment", {})
    if environment.get("state") in ("building", "failed", "incompatible"):
        return f"environment {environment['state']} ({environment.get('reason', '')})"
    running = sum(worker.get("state") == "running" for worker in workers)
    failed = sum(worker.get("state") == "failed" for worker in workers)
    text = f"{running} worker{'s' * (running != 1)} running"
    return f"{text}, {failed} failed" if failed else text
