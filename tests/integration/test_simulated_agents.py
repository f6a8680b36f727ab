"""The simulated agents' own HTTP/2 against gRPC's server: what scripts/bench measures rests on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from clusterai.channel_h2 import client_context
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.rpc import SERVER_OPTIONS
from clusterai.v1.node_pb2 import SessionResponse
from clusterai.v1.node_pb2_grpc import add_NodeServiceServicer_to_server
from load.bare import BareSessions
from load.identities import issue, node_name
from load.messages import heartbeat, hello
from load.stream_client import Stream
from support.waiting import until

AUTHORITY = CertificateAuthority.create("a test")
MORE_THAN_A_WINDOW = 400  # heartbeats: gRPC's window holds 65,535 bytes


@asynccontextmanager
async def bare_server() -> AsyncIterator[tuple[grpc.aio.Server, BareSessions, str]]:
    """Run gRPC's own server, which wants client certificates."""
    key = new_key()
    issued = AUTHORITY.issue(new_csr(key), "spiffe://test/daemon", dns=("clusteraid",), server=True, client=False)
    credentials = grpc.ssl_server_credentials([(key_pem(key), issued.chain_pem)], AUTHORITY.cert_pem, True)
    server, sessions = grpc.aio.server(options=SERVER_OPTIONS), BareSessions(1.0)
    add_NodeServiceServicer_to_server(sessions, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield server, sessions, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def opened(address: str, answers: list[SessionResponse]) -> Stream:
    context = client_context(issue(AUTHORITY, 1)[0].trust)
    return await Stream.open(address, context, hello(node_name(0), "nonce").SerializeToString(), answers.append)


async def test_all_messages_arrive_and_the_welcome_comes_back() -> None:
    answers: list[SessionResponse] = []
    async with bare_server() as (_, sessions, address):
        stream = await opened(address, answers)
        await until(lambda: bool(answers))
        for sequence in range(1, MORE_THAN_A_WINDOW + 1):
            stream.send(heartbeat(sequence).SerializeToString())
            await asyncio.sleep(0.001)  # the server opens the window as it reads
        await until(lambda: sessions.beats == MORE_THAN_A_WINDOW)
        assert answers[0].welcome.node_id == node_name(0)
        assert sessions.latest.heartbeat.sequence == MORE_THAN_A_WINDOW
        assert not stream.over.done()
        stream.close()


async def test_a_server_that_stops_ends_the_stream() -> None:
    answers: list[SessionResponse] = []
    async with bare_server() as (server, _, address):
        stream = await opened(address, answers)
        await until(lambda: bool(answers))
        await server.stop(0)
        assert await asyncio.wait_for(stream.over, 5)


async def test_a_certificate_of_another_authority_gets_no_welcome(tmp_path: Path) -> None:
    answers: list[SessionResponse] = []
    async with bare_server() as (_, _, address):
        (own,), (foreign,) = issue(AUTHORITY, 1), issue(CertificateAuthority.create("another"), 1)
        certificate = tmp_path / "foreign.pem"
        certificate.write_text(foreign.key + foreign.chain)
        context = client_context(own.trust)
        context.load_cert_chain(certificate)
        stream = await Stream.open(address, context, hello("foreign", "nonce").SerializeToString(), answers.append)
        assert await asyncio.wait_for(stream.over, 5)
        assert not answers
