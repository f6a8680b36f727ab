"""`clusteraid local` as a program, and whatever is left of it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.pool_environment import pool_environment
from support.tree import python_path

UP_SECONDS = 90


async def prepared_state(tmp_path: Path) -> Path:
    """Make a state directory whose compute environment is there already."""
    environment = await pool_environment()
    place = tmp_path / "state/compute/env"
    place.mkdir(parents=True)
    (place / environment.name).symlink_to(environment)
    return tmp_path / "state"


@asynccontextmanager
async def local(state: Path, *arguments: str, modules: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """A running `clusteraid local`, with further `modules`; whatever happens, nothing of it is left."""
    environment = python_path()
    environment["PYTHONPATH"] += f"{os.pathsep}{modules}" * bool(modules)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "clusteraid", "local", "--state", str(state), *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        for process_id in (*([process.pid] if process.returncode is None else []), *processes_of(state)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        await process.communicate()


def processes_of(state: Path) -> Iterator[int]:
    """The processes that name the state directory, in their command line or their environment variables."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(state).encode() in (path / "cmdline").read_bytes() + (path / "environ").read_bytes():
                yield int(path.name)


async def ended(process: asyncio.subprocess.Process, seconds: float = UP_SECONDS) -> tuple[int, str, str]:
    async with asyncio.timeout(seconds):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
