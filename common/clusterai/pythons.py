"""The Python interpreters of this machine."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from clusterai.errors import ClusterAIError, Status
from clusterai.termux import is_android

_SYSTEM_DIRECTORIES = ("/usr/bin", "/usr/local/bin")
_ASK = "import sys; print('%d.%d' % sys.version_info[:2], getattr(sys, '_base_executable', None) or sys.executable)"
_ASK_SECONDS = 10
_OLDEST, _NEWEST = 11, 14


class NoSuchPython(ClusterAIError):
    code, status = "no-such-python", Status.FAILED
    message = "this machine has no Python {minor}; it has {found}"
    hint = (
        "install it with `apt install python{minor} python{minor}-venv` or, where the distribution lacks it, "
        "`uv python install {minor}`"
    )

    def __init__(self, minor: str, found: tuple[str, ...] = ()) -> None:
        super().__init__(minor=minor, found=", ".join(found) or "none that a pool can use")


def find_python(minor: str) -> Path | None:
    """Return an interpreter of the minor ("3.11") from the system, PATH or uv's directory; None without one."""
    if not re.fullmatch(r"3\.\d{1,2}", minor):
        return None
    return next((base for path in _candidates(minor) if (base := _asked(path, minor)) is not None), None)


def require_python(minor: str) -> Path:
    """Return an interpreter of the minor.

    Raises:
        NoSuchPython: the machine has none; the hint says how to get it.
    """
    found = find_python(minor)
    if found is None:
        raise NoSuchPython(minor, available_minors())
    return found


def available_minors() -> tuple[str, ...]:
    """Return the minors from 3.11 to 3.14 that this machine can run, oldest first; on Android just the one running."""
    if is_android():
        return (f"{sys.version_info[0]}.{sys.version_info[1]}",)
    minors = (f"3.{number}" for number in range(_OLDEST, _NEWEST + 1))
    return tuple(minor for minor in minors if find_python(minor) is not None)


def _candidates(minor: str) -> Iterator[Path]:
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == minor:
        yield Path(sys.executable)
    directories = [part for part in os.environ.get("PATH", "").split(os.pathsep) if Path(part).is_absolute()]
    for name in (f"python{minor}", "python3"):
        for directory in dict.fromkeys([*_SYSTEM_DIRECTORIES, *directories]):
            yield Path(directory, name)
    yield from _managed_by_uv(minor)


def _managed_by_uv(minor: str) -> Iterator[Path]:
    """What `uv python install` left, newest first: `cpython-3.13.2-linux-…` below UV_PYTHON_INSTALL_DIR."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser())
    roots = (os.environ.get("UV_PYTHON_INSTALL_DIR"), data / "uv/python", "/usr/local/share/uv/python")
    for root in dict.fromkeys(Path(root) for root in roots if root):
        found = root.glob(f"cpython-{minor}.*/bin/python{minor}")
        yield from sorted(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])], reverse=True)


def _asked(path: Path, minor: str) -> Path | None:
    """The real interpreter behind the path if it runs and is of the minor: a shim or a broken link is neither."""
    try:
        stat = path.stat()
    except OSError:
        return None
    said, base = _ask(path, stat.st_mtime_ns)
    return base if said == minor else None


@cache
def _ask(path: Path, _changed: int) -> tuple[str, Path]:
    try:
        command = [str(path), "-I", "-S", "-c", _ASK]
        answer = subprocess.run(command, capture_output=True, timeout=_ASK_SECONDS, check=True, cwd="/")
    except (OSError, subprocess.SubprocessError):
        return "", path
    said, _, base = answer.stdout.decode(errors="replace").strip().partition(" ")
    return said, Path(base) if os.access(base, os.X_OK) else path
