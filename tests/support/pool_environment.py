"""The pool's real environment, built once on this machine and kept outside the repository."""

import asyncio
import os
import sys
from pathlib import Path

from clusterai.environment import EnvironmentBusy, EnvironmentKey, IndexConfig, build, lock

_BUILD_SECONDS = 900


def python_minor() -> str:
    """The minor of the Python that runs the tests, and so of the environment."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


async def pool_environment() -> Path:
    """Return the directory of a finished environment of the shipped lock; the first call builds it."""
    cache = Path(os.environ.get("CLUSTERAI_CACHE") or Path.home() / ".cache/clusterai")
    directory = cache / "pool" / EnvironmentKey(python_minor(), lock()).hash
    directory.parent.mkdir(parents=True, exist_ok=True)
    python = Path(f"/usr/bin/python{python_minor()}")
    async with asyncio.timeout(_BUILD_SECONDS):
        while True:
            try:
                return (await build(directory, lock(), python, index=IndexConfig(), progress=_unheard)).directory
            except EnvironmentBusy:
                await asyncio.sleep(1)


def _unheard(_ratio: float, _text: str) -> None:
    """Nobody watches."""
