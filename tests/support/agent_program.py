"""Runs `clusterai-agent` as a program."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class AgentProgram:
    """One `clusterai-agent run`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self._log = process, log

    @property
    def log(self) -> str:
        """What it said on stderr."""
        return self._log.read_text()

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "clusterai_agent", "--config", str(config), *arguments]


def variables(modules: Path | None = None) -> dict[str, str]:
    """Return the program's environment; `modules` is a directory with more of Python's modules."""
    parts = [*([modules] if modules else []), ROOT / "common", ROOT / "agent"]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, parts))}


@asynccontextmanager
async def agent(config: Path, modules: Path | None = None) -> AsyncIterator[AgentProgram]:
    """Run the agent; stop it at the end of the block unless it is gone."""
    log = config.with_name("agent.log")
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(*command(config, "run"), env=variables(modules), stderr=output)
    try:
        yield AgentProgram(process, log)
    finally:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(90):
                await process.wait()


async def said(config: Path, *arguments: str, modules: Path | None = None) -> tuple[int, str, str]:
    """Run a command of the agent to its end; return exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *command(config, *arguments),
        env=variables(modules),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, output.decode(), errors.decode()
