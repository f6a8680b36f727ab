"""Waits until Open WebUI answers (`python3 -I -m clusteraid.webui.wait`): its unit has started only then."""

import http.client
import json
import socket
import sys
import time
from pathlib import Path

SOCKET = Path("/run/open-webui/http.sock")
SECONDS = 280.0  # less than the unit's TimeoutStartSec=
_STEP_SECONDS = 0.5
_ANSWER_SECONDS = 5.0
_LIMIT = 1 << 20


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(str(self._path))


def answers(path: Path = SOCKET) -> bool:
    """Whether it says that it is well."""
    return _get(path, "/health") is not None


def waits_for_its_first_user(path: Path = SOCKET) -> bool:
    """Whether it has no account yet, so that whoever comes first would be its administrator."""
    try:
        told = json.loads(_get(path, "/api/config") or b"{}")
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("onboarding") is True


def _get(path: Path, what: str) -> bytes | None:
    connection = _Connection(path)
    try:
        connection.request("GET", what)
        answer = connection.getresponse()
        body = answer.read(_LIMIT)
        return body if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def main(seconds: float = SECONDS, path: Path = SOCKET) -> int:
    """Wait; return 0 when it answers, 1 when it does not within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answers(path):
            return 0
        time.sleep(_STEP_SECONDS)
    print(f"Open WebUI does not answer at {path} after {seconds:.0f} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
