"""Where this machine's Ollama is, and whether it runs: its unit, its program, or an address that answers."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clusterai.errors import ClusterAIError
from clusterai.ids import UnitName
from clusterai.units import UnitStatus
from clusterai.v1 import types_pb2 as types
from clusterai.v1.types_pb2 import ServiceState
from clusterai_agent.models.ollama_errors import OllamaOdd

UNIT = UnitName("ollama.service")
BINARIES = (Path("/usr/local/bin/ollama"), Path("/usr/bin/ollama"))
_UNIT_FOLDERS = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))
_ON_THE_SERVER = Path("/usr/lib/systemd/system/ollama.service.d/zz-clusterai-20-server.conf")
_USUAL_PORT, _SERVER_PORT = 11434, 11435  # the server's usual port is the gateway's
_PLACES = (Path("/var/lib/ollama/models"), Path("/usr/share/ollama/.ollama/models"), Path("/opt/ollama/models"))
_MODELS = re.compile(r"OLLAMA_MODELS=([^\s\"']+)")
_STARTING_SECONDS = 60.0
_INSTALL = "install it with `sudo clusterai-agent setup ollama`"


@dataclass(frozen=True)
class Found:
    """How Ollama is here; source: "unit", "binary" or "address"."""

    state: ServiceState
    reason: str = ""
    hint: str = ""
    source: str = ""


def default_address(on_the_server: Path = _ON_THE_SERVER) -> str:
    """Return where Ollama listens: on the server our drop-in moves it, because its usual port is the gateway's."""
    return f"127.0.0.1:{_SERVER_PORT if on_the_server.exists() else _USUAL_PORT}"


def binary(places: Iterable[Path] = BINARIES) -> Path | None:
    """Return the program, where there is one."""
    return next((path for path in places if os.access(path, os.X_OK)), None)


def found(unit: UnitStatus | None, program: Path | None, failure: ClusterAIError | None, now: float) -> Found:
    """Return how Ollama is by its unit, its program, and why it does not answer (None: it does)."""
    installed = unit is not None and unit.installed
    if failure is None:
        runs = installed and unit is not None and unit.active_state == "active"
        return Found(types.SERVICE_STATE_READY, source="unit" if runs else "address")
    if isinstance(failure, OllamaOdd):
        return Found(types.SERVICE_STATE_FAILED, str(failure), failure.advice, "address")
    if installed and unit is not None:
        return _by_unit(unit, failure, now)
    if program is not None:
        start = "`sudo clusterai-agent setup ollama` gives it a unit"
        return Found(types.SERVICE_STATE_STOPPED, f"{program} is there, and does not run", start, "binary")
    return Found(types.SERVICE_STATE_ABSENT, "there is no Ollama on this machine", _INSTALL)


def _by_unit(unit: UnitStatus, failure: ClusterAIError, now: float) -> Found:
    match unit.active_state:
        case "active" if now - unit.since_unix_seconds > _STARTING_SECONDS:
            return Found(types.SERVICE_STATE_FAILED, str(failure), failure.advice, "unit")
        case "active" | "reloading":
            return Found(types.SERVICE_STATE_STARTING, "it has just been started", "", "unit")
        case "activating" if not unit.restart_count:
            return Found(types.SERVICE_STATE_STARTING, "", "", "unit")
        case "activating" | "failed":
            ended = f"{UNIT} ended ({unit.result or 'unknown'}), {unit.restart_count} times restarted"
            return Found(types.SERVICE_STATE_FAILED, ended, f"see `journalctl -u {UNIT}`", "unit")
        case _:
            return Found(types.SERVICE_STATE_STOPPED, f"{UNIT} is stopped", f"`sudo systemctl start {UNIT}`", "unit")


def models_directory(configured: Path | None, folders: Iterable[Path] = _UNIT_FOLDERS) -> Path | None:
    """Return where Ollama keeps its models: as configured, as its unit says, or where it usually is and can be seen."""
    if configured is not None:
        return configured
    named = [path for text in _unit_texts(folders) for path in _MODELS.findall(text)]
    candidates = [*map(Path, named[-1:]), *_PLACES, Path("~/.ollama/models").expanduser()]
    return next((path for path in candidates if _is_directory(path)), None)


def can_be_served(directory: Path) -> bool:
    """Whether every user of this machine may read the models there: the server's mirror is another user's."""
    folders = [directory, directory / "blobs", directory / "manifests", *directory.parents]
    try:
        modes = [folder.stat().st_mode for folder in folders]
    except OSError:
        return False
    return all(mode & 0o001 for mode in modes) and all(mode & 0o004 for mode in modes[:3])


def free_bytes(directory: Path | None) -> int:
    """Return what may still be written there, 1 where that is nothing; 0 where it cannot be seen."""
    try:
        status = os.statvfs(directory) if directory else None
    except OSError:
        return 0
    return max(status.f_bavail * status.f_frsize, 1) if status else 0


def _unit_texts(folders: Iterable[Path]) -> list[str]:
    """The unit's file and its drop-ins, in the order in which they count."""
    folders = list(folders)
    files = [path for folder in reversed(folders) if (path := folder / UNIT).is_file()][-1:]
    drop_ins = {path.name: path for folder in reversed(folders) for path in (folder / f"{UNIT}.d").glob("*.conf")}
    files += [drop_ins[name] for name in sorted(drop_ins)]
    texts = []
    for file in files:
        try:
            texts.append(file.read_text(errors="replace")[: 1 << 16])
        except OSError:
            continue
    return texts


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
