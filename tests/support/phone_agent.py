"""The agent on a simulated phone, as tests watch it: what it says, and which processes it has."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support.termux import Phone

UP_SECONDS = 90.0
LOG = "var/log/sv/clusterai-agent/current"


async def until(good: Callable[[], Any], seconds: float = UP_SECONDS) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(seconds):
        while not good():
            await asyncio.sleep(0.1)


def install(phone: Phone, debs: Mapping[str, Path]) -> Phone:
    """Install the packages; return the phone."""
    done = phone.install(*debs.values())
    assert done.returncode == 0, done.stderr
    return phone


async def join(phone: Phone, token: str, *options: str) -> str:
    """Join with a token; return what was said."""
    words = ("clusterai-agent", "join", "--token-file", "-", *options)
    done = await asyncio.to_thread(phone.run, *words, given=f"{token}\n")
    assert done.returncode == 0, done.stderr
    return done.stdout


async def enable(phone: Phone) -> None:
    """Switch the service on; in the first session of Termux its supervisor needs a moment."""
    await until(lambda: phone.shell("sv-enable clusterai-agent").returncode == 0)


def status(phone: Phone) -> dict[str, Any]:
    """Return what `clusterai-agent status --json` says; nothing where the agent does not run."""
    done = phone.run("clusterai-agent", "status", "--json")
    return json.loads(done.stdout) if done.returncode == 0 else {}


def agents(phone: Phone) -> list[int]:
    """Return the agent's processes, the helpers that it starts for a moment apart."""
    return [number for number, words in phone.processes().items() if words[-1:] == ["run"] and "python3" in words[0]]


def workers(phone: Phone) -> list[int]:
    """Return the processes that are Dask workers."""
    return [number for number, words in phone.processes().items() if "distributed.cli.dask_worker" in words]
