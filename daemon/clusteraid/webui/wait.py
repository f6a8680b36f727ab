"""Waits until Open WebUI answers (`python3 -I -m clusteraid.webui.wait`): its unit has started only then."""

import http.client
import sys
import time

PORT = 3000
SECONDS = 280.0  # less than the unit's TimeoutStartSec=
_STEP_SECONDS = 0.5


def answers(port: int = PORT) -> bool:
    """Whether it says that it is well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main(seconds: float = SECONDS, port: int = PORT) -> int:
    """Wait; return 0 when it answers, 1 when it does not within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answers(port):
            return 0
        time.sleep(_STEP_SECONDS)
    print(f"Open WebUI does not answer on 127.0.0.1:{port} after {seconds:.0f} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
