"""What Ollama is started with: three settings, written by the agent as JSON, made variables by root.

`ollama.service` runs this before Ollama as `python3 -I -m clusterai.ollama_settings FILE.json FILE.env`. systemd reads
the result as an EnvironmentFile. A file of variables that the agent's user may write would be as good as a shell of
Ollama's user (LD_PRELOAD, GGML_BACKEND_PATH, CUDA_INJECTION64_PATH, …); these three settings are not.
"""

import json
import os
import re
import stat
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from clusterai.errors import ClusterAIError, Status
from clusterai.files import CannotWrite, remove, write_atomic

_LIMIT = 4096
_KEEP_ALIVE = re.compile(r"-1|[0-9]{1,9}|(?:[0-9]{1,6}(?:ms|s|m|h)){1,4}")
_CONTEXT, _PARALLEL = range(256, (1 << 22) + 1), range(1, 129)


class BadSettings(ClusterAIError):
    code, status = "bad-ollama-settings", Status.USAGE
    message = "Ollama's settings: {key}: {reason}"
    hint = "correct [models] in /etc/clusterai/clusteraid.toml on the server"

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key=key, reason=reason)


@dataclass(frozen=True)
class Settings:
    """The same on all nodes of a cluster. `context_length` in tokens, for each of `parallel_count` requests."""

    context_length: int
    parallel_count: int
    keep_alive: str

    def checked(self) -> Self:
        """Return itself; raise BadSettings when Ollama could not be started so."""
        if type(self.context_length) is not int or self.context_length not in _CONTEXT:
            raise BadSettings("context_length", f"must be {_CONTEXT[0]} to {_CONTEXT[-1]}")
        if type(self.parallel_count) is not int or self.parallel_count not in _PARALLEL:
            raise BadSettings("parallel_count", f"must be {_PARALLEL[0]} to {_PARALLEL[-1]}")
        if not isinstance(self.keep_alive, str) or not _KEEP_ALIVE.fullmatch(self.keep_alive):
            raise BadSettings("keep_alive", "must be seconds, a duration such as 5m, or -1")
        return self

    @classmethod
    def parse(cls, text: bytes) -> "Settings":
        """Return the settings of the file's text; raise BadSettings."""
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadSettings("(file)", "not JSON") from error
        if not isinstance(table, dict) or table.keys() != cls.__dataclass_fields__.keys():
            raise BadSettings("(file)", "not an object with exactly the three settings")
        return cls(**table).checked()

    def to_json(self) -> bytes:
        """Return the file's text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode() + b"\n"

    def variables(self) -> str:
        """Return them as systemd reads them."""
        return (
            f"OLLAMA_CONTEXT_LENGTH={self.context_length}\n"
            f"OLLAMA_NUM_PARALLEL={self.parallel_count}\n"
            f"OLLAMA_KEEP_ALIVE={self.keep_alive}\n"
        )


def read(path: Path) -> Settings | None:
    """Return the settings of the file; None when there is none. Raises BadSettings.

    Root reads what another user wrote: no link is followed, and nothing is waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadSettings("(file)", error.strerror or str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadSettings("(file)", "not a plain file")
        text = os.read(descriptor, _LIMIT + 1)
    finally:
        os.close(descriptor)
    if len(text) > _LIMIT:
        raise BadSettings("(file)", f"longer than {_LIMIT} bytes")
    return Settings.parse(text)


def main(arguments: list[str]) -> int:
    """Write the variables of the settings; without settings there are none, and Ollama has its own defaults."""
    source, goal = (Path(argument) for argument in arguments)
    try:
        settings = read(source)
        if settings is None:
            remove(goal)
        else:
            write_atomic(goal, settings.variables().encode(), 0o644)
    except (BadSettings, CannotWrite) as error:
        goal.unlink(missing_ok=True)
        print(f"clusterai.ollama_settings: {error}", file=sys.stderr)
        return error.status.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
