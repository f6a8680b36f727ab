"""Real environments of locked packages, each built once on this machine and kept outside the repository."""

import asyncio
import os
import sys
from pathlib import Path

from clusterai.environment import (
    PROOF,
    EnvironmentBusy,
    EnvironmentKey,
    IndexConfig,
    build,
    lock,
)

_BUILD_SECONDS = 2400


def python_minor() -> str:
    """The minor of the Python that runs the tests, and so of the environment."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


async def pool_environment() -> Path:
    """Return the directory of a finished environment of the shipped lock; the first call builds it."""
    return await environment("pool", lock(), Path(f"/usr/bin/python{python_minor()}"), python_minor())


async def environment(kind: str, lock_text: str, python: Path, minor: str, proof: str = PROOF) -> Path:
    """Return the directory of a finished environment of a lock; the first call builds it. `proof`: see `build`."""
    cache = Path(os.environ.get("CLUSTERAI_CACHE") or Path.home() / ".cache/clusterai")
    directory = cache / kind / EnvironmentKey(minor, lock_text).hash
    directory.parent.mkdir(parents=True, exist_ok=True)
    async with asyncio.timeout(_BUILD_SECONDS):
        while True:
            try:
                await build(directory, lock_text, python, index=IndexConfig(), progress=_unheard, proof=proof)
            except EnvironmentBusy:
                await asyncio.sleep(1)
            else:
                return directory


def _unheard(_ratio: float, _text: str) -> None:
    """Nobody watches."""
