"""What is expensive to make and stays the same is made once per machine, in $CLUSTERAI_CACHE."""

import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path


def directory() -> Path:
    """Return the cache of the lab."""
    path = Path(os.environ.get("CLUSTERAI_CACHE") or Path.home() / ".cache/clusterai") / "lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


def made_once(kind: str, content: str, make: Callable[[Path], None]) -> Path:
    """Return the directory that `make` filled for this content, now or earlier. Older ones of its kind are removed."""
    path = directory() / f"{kind}-{sha256(content.encode()).hexdigest()[:12]}"
    with (directory() / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(path)
            _remove_older(kind, path)
    return path


def _remove_older(kind: str, path: Path) -> None:
    """Remove what the kind was before, unless machines of another run stand on it."""
    mounts = _mounts()
    for older in directory().glob(f"{kind}-????????????"):
        if older != path and older.name not in mounts:
            shutil.rmtree(older)


def _mounts() -> str:
    """What is mounted anywhere, in every mount namespace: a simulated phone's is its own."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found.append((process / "mountinfo").read_text())
    return "\n".join(found)
