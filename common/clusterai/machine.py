"""Which machine this is: an id that may leave it, the same for everything of ours that runs on it."""

import hashlib
from pathlib import Path

_SALT = b"clusterai machine id v1:"
_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_LIMIT = 200


def hashed_machine_id(machine_id: str) -> str:
    """Return what may leave this machine of its id: machine-id(5) asks never to send the id itself."""
    return hashlib.sha256(_SALT + machine_id.encode()).hexdigest() if machine_id else ""


def own_machine_id() -> str:
    """Return this machine's hashed id; empty when it has none."""
    return hashed_machine_id(next(filter(None, map(_text, _FILES)), ""))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()[:_LIMIT]
    except OSError:
        return ""
