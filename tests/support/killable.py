"""A real daemon for fault tests: a child on the loopback interface that can be killed and started again."""

import asyncio
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from clusterai.rpc import local_channel, secure_channel
from clusterai.tokens import JoinToken
from clusterai.v1.cluster_pb2 import GetStatusRequest
from clusterai.v1.cluster_pb2_grpc import ClusterServiceStub
from clusterai.v1.token_pb2 import CreateTokenRequest
from clusterai.v1.token_pb2_grpc import TokenServiceStub
from support.tree import ROOT, python_path

START_SECONDS, STOP_SECONDS = 90.0, 60.0


class KillableDaemon:
    """`clusteraid` on free ports with its state in one directory; `start` as often as it was killed or stopped."""

    def __init__(
        self,
        directory: Path,
        *,
        settings: str = "",
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        listen: str = "127.0.0.1",
        announce: bool = False,
    ) -> None:
        """`wrapper` is a command that runs the daemon in its own place, by `exec`."""
        self._listen, self._announce = listen, announce
        self.directory, self._environment, self._wrapper = directory, environment or {}, tuple(wrapper)
        self.socket, self.log = directory / "d.sock", directory / "clusteraid.log"
        self.state, self.config = directory / "state", directory / "clusteraid.toml"
        self.process: asyncio.subprocess.Process | None = None
        for name in ("scheduler", "compute", "run"):
            (directory / name).mkdir()
        elsewhere = "" if "[gateway]" in settings else f'[gateway]\ndirectory = "{directory}/gateway"\n'
        self.config.write_text(self._settings() + elsewhere + settings)

    def _settings(self) -> str:
        return f"""
[server]
listen = "{self._listen}"
port = 0
enrollment_port = 0
socket = "{self.socket}"
state_directory = "{self.state}"
[pool]
scheduler_port = 0
dashboard_port = 0
scheduler_directory = "{self.directory}/scheduler"
compute_directory = "{self.directory}/compute"
runtime_directory = "{self.directory}/run"
[local_node]
enroll = false
[units]
back_end = "process"
stop_on_exit = true
[discovery]
announce = {str(self._announce).lower()}
"""

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.state / "clusteraid.sqlite"

    async def launch(self) -> asyncio.subprocess.Process:
        """Start the program without waiting for it to answer."""
        environment = {**python_path(), **self._environment}
        command = (*self._wrapper, sys.executable, "-P", "-m", "clusteraid", "--config", str(self.config))
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self.process

    async def start(self) -> None:
        """Start it and wait until it answers on its socket."""
        process = await self.launch()
        async with asyncio.timeout(START_SECONDS):
            while not self._listens():  # gRPC would try again after 0.25 s, then ever more seldom
                assert process.returncode is None, f"the daemon ended with {process.returncode}: {self.said()}"
                await asyncio.sleep(0.02)
            async with local_channel(self.socket) as channel:
                stub: Any = ClusterServiceStub(channel)
                while not await _answers(stub):
                    assert process.returncode is None, f"the daemon ended with {process.returncode}: {self.said()}"
                    await asyncio.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def heal(self) -> None:
        """Start without the wrapper from now on."""
        self._wrapper = ()

    async def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """Ask it to end, and wait for that; return its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        try:
            return await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"the daemon did not stop: {self.said()}") from None

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text()[-3000:]

    async def token(self, use_limit: int = 1) -> JoinToken:
        """Create a join token."""
        async with local_channel(self.socket) as channel:
            stub: Any = TokenServiceStub(channel)
            answer = await stub.CreateToken(CreateTokenRequest(use_limit=use_limit, ttl_seconds=3600), timeout=60)
        return JoinToken.parse(answer.token)

    def ca_pem(self) -> bytes:
        """Return the cluster CA."""
        return (self.state / "pki/cluster-ca.pem").read_bytes()

    async def enrollment_address(self) -> str:
        """Return where nodes enrol now: port 0 in the configuration is any free one."""
        async with local_channel(self.socket) as channel:
            stub: Any = TokenServiceStub(channel)
            answer = await stub.CreateToken(CreateTokenRequest(ttl_seconds=60), timeout=60)
        port: str = answer.server_addresses[0].rpartition(":")[2]
        return f"127.0.0.1:{port}"

    @asynccontextmanager
    async def enrollment(self) -> AsyncIterator[grpc.aio.Channel]:
        """Yield a channel to the enrolment port."""
        async with secure_channel(await self.enrollment_address(), ca_pem=self.ca_pem()) as channel:
            yield channel

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Read the store beside the daemon."""
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=60)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()


async def _answers(stub: Any) -> bool:
    try:
        await stub.GetStatus(GetStatusRequest(), timeout=2)
    except grpc.aio.AioRpcError:
        return False
    return True


@asynccontextmanager
async def killable_daemon(directory: Path, **options: Any) -> AsyncIterator[KillableDaemon]:
    """Yield a daemon that runs and answers; stop it at the end if the test did not."""
    daemon = KillableDaemon(directory, **options)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()
