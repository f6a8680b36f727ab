"""The two servers that are compared: the daemon, and a bare stream server with the same TLS and options."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from bench.processes import Place, Program
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.remote import MAX_ANSWER_BYTES
from clusterai.tokens import JoinToken
from clusterai.v1.cluster_pb2 import GetStatusRequest
from clusterai.v1.cluster_pb2_grpc import ClusterServiceStub
from clusterai.v1.token_pb2 import CreateTokenRequest
from clusterai.v1.token_pb2_grpc import TokenServiceStub
from support.ports import free_port

START_SECONDS = 30.0


class Daemon:
    """A real clusteraid in a directory of its own: it can be started, killed and started again on the same ports."""

    def __init__(self, directory: Path, place: Place, *, heartbeat_seconds: float = 1.0) -> None:
        self.directory, self._place = directory, place
        self.port, self.enrollment_port = free_port(), free_port()
        self.socket = directory / "clusteraid.sock"
        self.config = directory / "clusteraid.toml"
        self.log = directory / "clusteraid.log"
        self.config.write_text(self._settings(heartbeat_seconds))

    def _settings(self, heartbeat_seconds: float) -> str:
        return f"""
[server]
listen = "127.0.0.1"
port = {self.port}
enrollment_port = {self.enrollment_port}
socket = "{self.socket}"
state_directory = "{self.directory}/state"
advertise = ["127.0.0.1"]
[session]
heartbeat_seconds = {heartbeat_seconds}
[pool]
scheduler_host = "127.0.0.1"
scheduler_port = {free_port()}
dashboard_port = {free_port()}
scheduler_directory = "{self.directory}/scheduler"
compute_directory = "{self.directory}/compute"
runtime_directory = "{self.directory}/run"
[local_node]
enroll = false
[units]
back_end = "process"
[discovery]
announce = false
[gateway]
directory = "{self.directory}/gateway"
"""

    @contextmanager
    def running(self) -> Iterator[Program]:
        """Run it until the end of the block; it answers when the block begins."""
        for name in ("state", "scheduler", "compute", "run"):
            (self.directory / name).mkdir(exist_ok=True)
        (self.directory / "state").rmdir() if not any((self.directory / "state").iterdir()) else None
        with Program("clusteraid", "--config", self.config, place=self._place, log=self.log) as program:
            self._wait_for_answer(program)
            yield program

    def _wait_for_answer(self, program: Program) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if program.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the daemon does not answer:\n{self.log.read_text()[-3000:]}")
            try:
                self.call(ClusterServiceStub, "GetStatus", GetStatusRequest(), seconds=2)
            except grpc.RpcError:
                time.sleep(0.02)
            else:
                return

    def call(self, stub: type, method: str, request: Message, *, seconds: float = 10.0) -> Any:
        """Make one call on the local socket, as an operator on the server does."""
        return next(iter(self.calls(stub, method, [request], seconds=seconds)))

    def calls(self, stub: type, method: str, requests: Iterable[Message], *, seconds: float = 30.0) -> Iterator[Any]:
        """Make calls one after another on one connection; the answer of a streaming one is an iterator."""
        options = (("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", MAX_ANSWER_BYTES))
        with grpc.insecure_channel(f"unix:{self.socket}", options=options) as channel:
            ask = getattr(stub(channel), method)
            for request in requests:
                yield ask(request, timeout=seconds)

    @property
    def address(self) -> str:
        """Where agents connect."""
        return f"127.0.0.1:{self.port}"

    @property
    def enrollment_address(self) -> str:
        """Where nodes enrol."""
        return f"127.0.0.1:{self.enrollment_port}"

    @property
    def ca_pem(self) -> bytes:
        """The cluster CA, from the daemon's own directory."""
        return next((self.directory / "state").rglob("cluster-ca.pem")).read_bytes()

    def token(self, use_limit: int) -> JoinToken:
        """Create a join token."""
        request = CreateTokenRequest(use_limit=use_limit, ttl_seconds=3600)
        return JoinToken.parse(self.call(TokenServiceStub, "CreateToken", request).token)


@contextmanager
def bare_server(
    directory: Path, place: Place, *, interval: float = 1.0, port: int = 0
) -> Iterator[tuple[Program, str]]:
    """Run the bare server with the daemon's own CA; yield it and its address."""
    state = directory / "state"
    ca = CertificateAuthority.load(
        next(state.rglob("cluster-ca.key")).read_bytes(), next(state.rglob("cluster-ca.pem")).read_bytes()
    )
    with _certificate(directory, ca) as files:
        arguments = ("--certificate", files[0], "--ca", files[1], "--interval", interval, "--port", port)
        with Program("load.bare", *arguments, place=place) as program:
            yield program, f"127.0.0.1:{program.read_line()}"


@contextmanager
def _certificate(directory: Path, authority: CertificateAuthority) -> Iterator[tuple[Path, Path]]:
    key = new_key()
    issued = authority.issue(new_csr(key), "spiffe://bench/daemon", dns=("clusteraid",), server=True, client=False)
    certificate, ca = directory / "bare.pem", directory / "bare-ca.pem"
    with os.fdopen(os.open(certificate, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(key_pem(key) + issued.chain_pem)
    ca.write_bytes(authority.cert_pem)
    yield certificate, ca
