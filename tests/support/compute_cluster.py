"""A cluster that computes, on the loopback interface: the real daemon and agents as programs, a real Dask pool."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

from clusterai.v1.node_admin_pb2 import NodeState
from clusterai.v1.types_pb2 import WORKER_STATE_HELD, WORKER_STATE_REGISTERED
from support.agent_program import AgentProgram, agent, said
from support.ctl import Ctl
from support.dask_pool import Script
from support.killable import KillableDaemon
from support.local_cluster import processes_of
from support.pool_environment import pool_environment
from support.sim_node import node

_WAIT_SECONDS = 90.0
_PREAMBLE = """
import json, sys, time
from distributed import Client, get_worker, wait
import dask
dask.config.set({settings!r})
def say(value):
    print(json.dumps(value), flush=True)
def hear():
    return json.loads(sys.stdin.readline())
with Client(timeout=90) as client:
"""


class LastingDaemon(KillableDaemon):
    """A daemon that has the same ports after each start, so that agents find it again; its scheduler outlives it."""

    def _settings(self) -> str:
        first, second = _free_ports()
        settings = super()._settings()
        settings = settings.replace("stop_on_exit = true", "stop_on_exit = false")
        settings = settings.replace("enrollment_port = 0", f"enrollment_port = {second}")
        return settings.replace("\nport = 0", f"\nport = {first}")


class ComputeNode:
    """A machine: its agent can be started, killed and started again."""

    def __init__(self, name: str, directory: Path, config: Path, modules: Path | None) -> None:
        self.name, self.directory, self.config, self.modules = name, directory, config, modules

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AgentProgram]:
        """Run the agent until the end of the block."""
        async with agent(self.config, self.modules) as program:
            yield program

    async def said(self, *words: str) -> tuple[int, str, str]:
        """Run a command of the agent."""
        return await said(self.config, *words, modules=self.modules)


class ComputeCluster:
    """The daemon, and what nodes and clients need to come in. The compute environments are there already.

    `mobile` is that of the phones, where it is another one.
    """

    def __init__(self, directory: Path, environment: Path, settings: str = "", mobile: Path | None = None) -> None:
        self._directory, self.environment, self.mobile = directory, environment, mobile or environment
        (directory / "server").mkdir()
        self.daemon = LastingDaemon(directory / "server", settings=settings)
        self.ctl = Ctl(directory, self.daemon.socket)
        self._link(directory / "server/compute")

    def _link(self, compute: Path) -> None:
        (compute / "env").mkdir(parents=True)
        for environment in {self.environment, self.mobile}:
            (compute / "env" / environment.name).symlink_to(environment)

    async def node(self, name: str, *, extra: str = "", modules: Path | None = None) -> ComputeNode:
        """Make a machine and let it join; `extra` ends its agent.toml."""
        directory = self._directory / name
        (directory / "dask").mkdir(parents=True)
        self._link(directory / "compute")
        config = directory / "agent.toml"
        config.write_text(f"""
[server]
discover = false
local_token_file = "{directory}/none/token"
[state]
directory = "{directory}/agent"
compute_directory = "{directory}/compute"
scratch_directory = "{directory}/dask"
[units]
back_end = "process"
[worker]
threads = 1
memory_fraction = 0.1
contact_address = "127.0.0.1"
{extra}
""")
        node = ComputeNode(name, directory, config, modules)
        (directory / "token").write_text(f"{await self.daemon.token()}\n")
        where = ("--server", await self.daemon.enrollment_address(), "--token-file", str(directory / "token"))
        code, _, errors = await node.said("join", *where, "--name", name, "--no-start")
        assert code == 0, errors
        return node

    async def until(self, name: str, state: str, workers: int) -> None:
        """Wait until a node is in that state with so many workers that Dask knows."""
        async with asyncio.timeout(_WAIT_SECONDS):
            while await self.seen(name) != (state, workers):
                await asyncio.sleep(0.05)

    async def seen(self, name: str) -> tuple[str, int]:
        """Return the node's state, and how many workers of it Dask knows."""
        shown = await node(self.daemon, name)
        known = [worker for worker in shown.workers if worker.state in (WORKER_STATE_REGISTERED, WORKER_STATE_HELD)]
        return NodeState.Name(shown.state).removeprefix("NODE_STATE_").lower(), len(known)

    @asynccontextmanager
    async def client(self, script: str, pool: str = "main") -> AsyncIterator[Script]:
        """Run a script with `client`, `say` and `hear` in a process of the environment's Python."""
        settings: dict[str, Any] = (await self.ctl("dask", "env", "--pool", pool, "--json")).data["settings"]
        indented = "".join(f"    {line}\n" for line in script.strip().splitlines())
        python = (self.mobile if pool == "mobile" else self.environment) / "bin/python"
        process = await asyncio.create_subprocess_exec(
            python, "-c", _PREAMBLE.format(settings=settings) + indented,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self._directory), "TMPDIR": str(self._directory)},
        )  # fmt: skip
        try:
            yield Script(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@asynccontextmanager
async def compute_cluster(
    directory: Path, settings: str = "", mobile: Path | None = None
) -> AsyncIterator[ComputeCluster]:
    """Run a daemon until the end of the block; `settings` end its clusteraid.toml."""
    cluster = ComputeCluster(directory, await pool_environment(), settings, mobile)
    await cluster.daemon.start()
    try:
        yield cluster
    finally:
        await cluster.daemon.stop()
        await _end(directory)


async def _end(directory: Path) -> None:
    """End scheduler and workers, which outlive whoever started them, as on real machines."""
    async with asyncio.timeout(_WAIT_SECONDS):
        while process_ids := list(processes_of(directory)):
            for process_id in process_ids:
                with suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)
            await asyncio.sleep(0.05)


def _free_ports() -> tuple[int, int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as one, closing(socket.create_server(("127.0.0.1", 0))) as two:
        return one.getsockname()[1], two.getsockname()[1]
