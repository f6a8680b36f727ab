"""How the double can be told to fail: in a test by attribute, from outside by POST /fake/faults or a JSON file."""

import json
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any


@dataclass
class Faults:
    """What to do wrong, and how slow to be. Paths are patterns as the shell's. Negative numbers: never."""

    load_seconds: float = 0.0  # how long a model takes to load
    load_error: str = ""  # loading ends with this, as when the runner dies
    token_seconds: float = 0.0  # between two tokens
    prompt_seconds: float = 0.0  # before the first token
    tokens: int = 12  # of an answer, where the request does not limit it
    reply: str = ""  # the answer, instead of made-up words
    refuse: dict[str, int] = field(default_factory=dict)  # path: status, with Ollama's kind of error
    retry_after: int = 0  # seconds; sent along with a refusal
    refusals: int = -1  # refuse only so many more times
    hang: list[str] = field(default_factory=list)  # paths whose requests are taken and never answered
    hang_after_tokens: int = -1
    crash_after_tokens: int = -1  # the connection ends in mid-stream
    error_after_tokens: int = -1  # an error in mid-stream, as the real one reports it
    digests: dict[str, str] = field(default_factory=dict)  # model: digest that is claimed in lists
    hidden: list[str] = field(default_factory=list)  # models that lists do not show
    ghosts: list[str] = field(default_factory=list)  # models that lists show and nobody has
    garbage: list[str] = field(default_factory=list)  # paths that answer nonsense
    nonsense: str = "\0{nonsense"
    disk_full: bool = False  # writing a blob fails
    damage: bool = False  # what is pulled is damaged on its way to the disk
    context_length: int = 0  # claimed for loaded models

    def set(self, values: dict[str, Any]) -> None:
        """Take new values; raise ValueError for a name that is none."""
        known = {each.name for each in fields(self)}
        if unknown := values.keys() - known:
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
        for name, value in values.items():
            setattr(self, name, value)

    def clear(self) -> None:
        """Behave well again."""
        self.set({each.name: getattr(Faults(), each.name) for each in fields(self)})

    def refusal(self, path: str) -> int:
        """Return the status with which a path is refused now; 0 when it is not."""
        for pattern, status in self.refuse.items():
            if fnmatchcase(path, pattern) and self.refusals:
                self.refusals -= self.refusals > 0
                return status
        return 0

    def hangs(self, path: str) -> bool:
        """Tell whether requests for the path are never answered."""
        return any(fnmatchcase(path, pattern) for pattern in self.hang)

    def garbles(self, path: str) -> bool:
        """Tell whether the path answers nonsense."""
        return any(fnmatchcase(path, pattern) for pattern in self.garbage)


class ControlFile:
    """Faults in a file, read again when it has changed."""

    def __init__(self, path: Path | None, faults: Faults) -> None:
        self._path, self._faults = path, faults
        self._seen: tuple[int, int] | None = None

    def look(self) -> None:
        """Take what is in the file now; without the file behave well."""
        if self._path is None:
            return
        try:
            info = self._path.stat()
            seen, values = (info.st_mtime_ns, info.st_ino), None
            if seen != self._seen:
                values = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            seen, values = None, {} if self._seen else None
        if values is not None:
            self._faults.clear()
            self._faults.set(values)
        self._seen = seen
