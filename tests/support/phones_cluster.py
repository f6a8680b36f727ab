"""A server with its gateway and packages for phones, a tower in the pool `main`, and simulated phones in `mobile`.

The daemon, the schedulers and the tower run on this machine, that of `mobile` in Python of the phones' minor.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusterai.lockfile import lock
from clusterai.pki import CertificateAuthority
from support.compute_cluster import ComputeCluster, compute_cluster
from support.gateway import CLUSTER, Gateway
from support.phones_python import MINOR, phones_python, phones_pythons
from support.pool_environment import environment
from support.termux import Phone
from support.tree import python_path
from support.waiting import until

_SERVER = '[policy]\nmachine_class = "server"\n'
_WAIT_SECONDS = 90.0


def _settings(gateway: Gateway) -> str:
    return f"""
[mobile]
enabled = true
scheduler_port = 0
dashboard_port = 0
[gateway]
directory = "{gateway.state}"
https_port = {gateway.https_port}
status_port = {gateway.status_port}
[repository]
directory = "{gateway.repository}"
"""


@dataclass
class PhonesCluster:
    """`main` has the daemon and all that the pool `main` needs."""

    main: ComputeCluster
    gateway: Gateway
    debs: Mapping[str, Path]

    async def publish(self) -> None:
        """Let the server have the packages for phones, as `clusteraid repo add` does."""
        daemon = self.main.daemon
        await until(lambda: daemon.ca_pem().strip() in (self.gateway.state / "web.pem").read_bytes())
        self.gateway.reload()
        words = ("-m", "clusteraid", "repo", "--config", str(daemon.config), "add", *map(str, self.debs.values()))
        adding = await asyncio.create_subprocess_exec(sys.executable, "-P", *words, env=python_path(), umask=0o022)
        assert await adding.wait() == 0

    async def join(self, phone: Phone, name: str) -> None:
        """Install the packages on the phone, let it join and switch it on."""
        await asyncio.to_thread(phone.install, *self.debs.values())
        token, address = str(await self.main.daemon.token()), await self.main.daemon.enrollment_address()
        words = ("clusterai-agent", "join", "--server", address, "--token-file", "-", "--name", name)
        done = await asyncio.to_thread(phone.run, *words, given=f"{token}\n")
        assert done.returncode == 0, done.stderr
        await until(lambda: phone.shell("sv-enable clusterai-agent").returncode == 0)

    async def workers(self, *words: str) -> dict[str, tuple[str, str]]:
        """Return pool and state of each worker by its name."""
        listed: list[Any] = (await self.main.ctl("worker", "list", *words, "--json")).data["workers"]
        return {one["worker_name"]: (one["pool_name"], one["state"]) for one in listed}

    async def kinds(self, node: str) -> list[str]:
        """Return the kinds of the events of a node, oldest first."""
        events = (await self.main.ctl("events", "--json")).records
        return [event["kind"] for event in events if event["subject"] == node]


@asynccontextmanager
async def phones_cluster(directory: Path, debs: Mapping[str, Path]) -> AsyncIterator[PhonesCluster]:
    """Run the server with its tower until the end of the block."""
    (directory / "gw").mkdir()
    gateway = Gateway(directory / "gw", CertificateAuthority.create("placeholder", CLUSTER))
    mobile = await environment("pool", lock(), phones_python(), MINOR)
    gateway.repository.mkdir()
    gateway.start()
    try:
        async with compute_cluster(directory, _settings(gateway), mobile) as main, AsyncExitStack() as agents:
            patch = agents.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("UV_PYTHON_INSTALL_DIR", str(phones_pythons()))
            tower = await main.node("tower", extra=_SERVER)
            await agents.enter_async_context(tower.running())
            soon = await main.ctl("policy", "set", "--class", "phone", "dwell_seconds=0")
            assert soon.code == 0, soon.err
            await main.until("tower", "ready", 1)
            yield PhonesCluster(main, gateway, debs)
    finally:
        gateway.stop()
