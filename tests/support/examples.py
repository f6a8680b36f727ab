"""The examples as a user runs them: a program, on a real Dask cluster on loopback addresses."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from support.pool_environment import pool_environment
from support.waiting import until

DASK_LOG = "dask.log"  # below the scratch directory: all that scheduler and workers say


@asynccontextmanager
async def dask(scratch: Path, *hosts: str) -> AsyncIterator[dict[str, str]]:
    """A real scheduler and one worker for each loopback address: each address is a machine to the census."""
    programs = (await pool_environment()) / "bin"
    async with AsyncExitStack() as parts:
        module = (programs / "python", "-m", "distributed.cli.dask_scheduler")
        await parts.enter_async_context(program(scratch, *module, "--host", "127.0.0.1", "--port", "0"))
        address = await address_in(scratch / DASK_LOG)
        for host in hosts:
            words = ("--host", host, "--no-nanny", "--nthreads", "2")
            worker = program(scratch, programs / "python", "-m", "distributed.cli.dask_worker", address, *words)
            await parts.enter_async_context(worker)
        log = scratch / DASK_LOG
        await until(lambda: log.read_text().count("Register worker addr") >= len(hosts))
        yield {**os.environ, "DASK_SCHEDULER_ADDRESS": address, "PATH": f"{programs}:{os.environ['PATH']}"}


@asynccontextmanager
async def program(scratch: Path, *command: str | Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with (scratch / DASK_LOG).open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), "--no-dashboard", stderr=log, start_new_session=True,
            env={**os.environ, "DASK_TEMPORARY_DIRECTORY": str(scratch)},
        )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def address_in(log: Path) -> str:
    said: list[str] = []

    def lines() -> list[str]:
        said[:] = [line for line in log.read_text().splitlines() if "Scheduler at:" in line]
        return said

    await until(lines)
    return said[0].split()[-1]


async def run(script: Path, variables: dict[str, str], *arguments: str | Path, cwd: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        str(script), *map(str, arguments), env=variables, cwd=cwd,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(120):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), err.decode()
