"""Someone else answers: what leaves the machine that joins, and what two people would see."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from clusterai.approval import approval_code
from clusterai.enroll_client import ApprovalEnded, WrongAuthority, enroll, request_approval
from clusterai.errors import ClusterAIError, Unreachable
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key, spki_sha256_of
from clusterai.rpc import SERVER_OPTIONS, secure_channel
from clusterai.tokens import JoinToken
from clusterai.v1 import enrollment_pb2 as pb
from clusterai.v1.enrollment_pb2_grpc import (
    EnrollmentServiceServicer,
    EnrollmentServiceStub,
    add_EnrollmentServiceServicer_to_server,
)
from clusterai.v1.types_pb2 import NodeFacts
from fakes.http import stop_listening
from support.trust import Trust
from support.waiting import until


@pytest.fixture
async def trust(tmp_path: Path) -> AsyncIterator[Trust]:
    async with Trust.open(tmp_path) as opened, opened.serving():
        yield opened


_HTTP2_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # an empty SETTINGS frame: now a client sends its request


class Impostor:
    """A TLS server with a key of its own that writes down every byte it gets, as sent and as decrypted."""

    def __init__(self, directory: Path, shown_authority: bytes) -> None:
        self.authority, self.recorded = CertificateAuthority.create("Cluster AI"), b""
        self.tasks: list[Any] = []
        self.greeted: list[ssl.SSLObject] = []
        key = new_key()
        leaf = self.authority.issue(new_csr(key), "spiffe://c/daemon", dns=("clusteraid",), server=True)
        file = directory / "impostor.pem"
        file.write_bytes(key_pem(key) + ssl.DER_cert_to_PEM_cert(leaf.chain_der[0]).encode() + shown_authority)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(file)
        self.context.set_alpn_protocols(["h2"])

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen until the end of the block; the address."""
        async with await asyncio.start_server(self._record, "127.0.0.1", 0) as server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await stop_listening(server)
            await asyncio.wait_for(asyncio.gather(*self.tasks, return_exceptions=True), 90)

    async def _record(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak TLS over the plain connection, so that both sides of the encryption are seen."""
        self.tasks.append(asyncio.current_task())
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(incoming, outgoing, server_side=True)
        try:
            async with asyncio.timeout(60):
                while data := await reader.read(1 << 16):
                    self.recorded += data
                    incoming.write(data)
                    self._advance(tls)
                    writer.write(outgoing.read())
                    await writer.drain()
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    def _advance(self, tls: ssl.SSLObject) -> None:
        """Shake hands until that is done, then read; an end of the connection shows in the reader."""
        try:
            tls.do_handshake()  # does nothing once it is done
            if tls not in self.greeted:
                self.greeted.append(tls)
                tls.write(_HTTP2_SETTINGS)
            while data := tls.read(1 << 16):
                self.recorded += data
        except ssl.SSLError:
            return


async def test_an_impostor_with_another_key_gets_neither_secret_nor_request(trust: Trust, tmp_path: Path) -> None:
    token = await trust.token()
    impostor = Impostor(tmp_path, b"")
    async with impostor.serving() as address:
        with pytest.raises(WrongAuthority, match="the secret was not sent"):
            await enroll(address, token, name="pi4", facts=NodeFacts(hostname="pi4-host"))
    assert len(impostor.tasks) == 1
    assert_nothing_told(impostor.recorded, token)


async def test_an_impostor_that_shows_the_true_authority_fails_at_the_handshake(trust: Trust, tmp_path: Path) -> None:
    """The CA certificate is public: anyone can put it behind a leaf of their own."""
    token = await trust.token()
    impostor = Impostor(tmp_path, trust.authority.ca_pem)
    async with impostor.serving() as address:
        with pytest.raises(Unreachable) as refused:
            await asyncio.wait_for(enroll(address, token, name="pi4", facts=NodeFacts(hostname="pi4-host")), 60)
    assert "certificate" in refused.value.advice
    assert len(impostor.tasks) >= 2
    assert_nothing_told(impostor.recorded, token)


def assert_nothing_told(recorded: bytes, token: JoinToken) -> None:
    assert recorded
    for told in (token.secret, token.token_id, "pi4-host", "pi4"):
        assert told.encode() not in recorded


async def test_the_recorder_would_have_seen_a_secret(tmp_path: Path) -> None:
    """The two tests above are worth something only because a client that does not check would have told."""
    impostor = Impostor(tmp_path, b"")
    async with impostor.serving() as address, secure_channel(address, ca_pem=impostor.authority.cert_pem) as opened:
        call = EnrollmentServiceStub(opened).Enroll(pb.EnrollRequest(token_secret="a" * 26), timeout=60)
        await until(lambda: b"a" * 26 in impostor.recorded)
        call.cancel()
        for task in impostor.tasks:
            task.cancel()


class Middleman(EnrollmentServiceServicer):
    """Passes an approval round on to the true server, with a key of its own to each side."""

    def __init__(self, true_address: str, true_ca: bytes) -> None:
        self.true_address, self.true_ca, self.csr = true_address, true_ca, new_csr(new_key())
        self.nonces: list[bytes] = []

    async def RequestApproval(
        self, requests: AsyncIterator[pb.RequestApprovalRequest], context: Any
    ) -> AsyncIterator[pb.RequestApprovalResponse]:
        async with secure_channel(self.true_address, ca_pem=self.true_ca) as opened:
            call = EnrollmentServiceStub(opened).RequestApproval(timeout=30)
            first = await anext(requests)
            first.opening.csr_der = self.csr
            await call.write(first)
            challenge = await call.read()
            yield challenge
            second = await anext(requests)
            self.nonces = [second.reveal.nonce, challenge.challenge.nonce]
            await call.write(second)
            await anext(requests, None)


async def test_a_middleman_shows_two_codes_and_gets_nothing(trust: Trust) -> None:
    authority = CertificateAuthority.create("Cluster AI")
    middleman = Middleman(trust.enrollment_address, trust.authority.ca_pem)
    shown: list[str] = []

    async def compare(code: str) -> bool:
        await until(trust.approvals.waiting)
        shown.extend([code, trust.approvals.waiting()[0].code])
        return shown[0] == shown[1]

    async with served(authority, middleman) as address:
        with pytest.raises(ApprovalEnded, match="the codes differ") as ended:
            await request_approval(address, name="pi4", facts=facts(), confirm=compare)
    assert shown[0] != shown[1]
    ca_sha256 = spki_sha256_of(authority.cert_der)
    assert shown[1] == approval_code(trust.authority.ca_sha256, middleman.csr, *middleman.nonces)
    assert shown[0] != approval_code(ca_sha256, middleman.csr, *middleman.nonces)
    assert "token" in ended.value.advice
    assert await trust.nodes() == []


@asynccontextmanager
async def served(authority: CertificateAuthority, servicer: EnrollmentServiceServicer) -> AsyncIterator[str]:
    key = new_key()
    leaf = authority.issue(new_csr(key), "spiffe://c/daemon", dns=("clusteraid",), server=True, client=False)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_EnrollmentServiceServicer_to_server(servicer, server)
    credentials = grpc.ssl_server_credentials([(key_pem(key), leaf.chain_pem)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def facts() -> NodeFacts:
    return NodeFacts(hostname="pi4", clock_unix_seconds=time.time())


async def test_a_server_that_breaks_the_round_is_not_waited_for(trust: Trust) -> None:
    class Silent(EnrollmentServiceServicer):
        async def RequestApproval(
            self, requests: AsyncIterator[pb.RequestApprovalRequest], context: Any
        ) -> AsyncIterator[pb.RequestApprovalResponse]:
            yield pb.RequestApprovalResponse(issued=pb.EnrollResponse(identity="spiffe://c/node/pi4"))

    async def never(code: str) -> bool:
        raise AssertionError(code)

    async with served(CertificateAuthority.create("Cluster AI"), Silent()) as address:
        with pytest.raises(ClusterAIError, match="did not send the challenge"):
            await request_approval(address, name="pi4", facts=facts(), confirm=never)
