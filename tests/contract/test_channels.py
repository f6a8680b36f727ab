"""One suite for both kinds of channels, on a real gRPC server with mutual TLS that runs in threads of its own."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import grpc
import pytest

from clusterai.channel import Channel, Method, Patience, Trust
from clusterai.channel_grpcio import GrpcioChannel
from clusterai.channel_h2 import H2Channel
from clusterai.errors import Status, TimedOut, Unreachable
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.remote import CODE_KEY, HINT_KEY, RemoteError, split_address
from clusterai.rpc import SERVER_OPTIONS
from clusterai.v1.node_pb2 import GetEnvironmentLockRequest as Question
from clusterai.v1.node_pb2 import GetEnvironmentLockResponse as Answer

KINDS = (GrpcioChannel, H2Channel)
ASK, REFUSE, SLEEP, TALK, END, HANG, LARGE = (
    Method(f"/test.Service/{name}", Question, Answer)
    for name in ("Ask", "Refuse", "Sleep", "Talk", "End", "Hang", "Large")
)
PATIENCE = Patience(handshake=3.0)
# RFC 8446, 4.1.3: the `random` of a server's hello that asks for another one.
HELLO_RETRY_REQUEST = bytes.fromhex("CF21AD74E59A6111BE1D8C021E65B891C2A211167ABB8C5E079E09E2C8A8339C")


@dataclass(frozen=True)
class Server:
    """Where it listens, what it has seen end, and a node's trust in it."""

    address: str
    given_up: Event
    trust: Trust
    server: grpc.Server


class Service(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Methods that do what their names say."""

    def __init__(self) -> None:
        self.given_up = Event()

    def service(self, handler_call_details: Any) -> Any:
        name = handler_call_details.method.rpartition("/")[2]
        codec: Any = {"request_deserializer": Question.FromString, "response_serializer": Answer.SerializeToString}
        if name in ("Ask", "Refuse", "Sleep"):
            return grpc.unary_unary_rpc_method_handler(getattr(self, name.lower()), **codec)
        if name in ("Talk", "End", "Hang", "Large"):
            return grpc.stream_stream_rpc_method_handler(getattr(self, name.lower()), **codec)
        return None

    def ask(self, question: Any, context: Any) -> Any:
        return Answer(python_minor=question.environment_hash)

    def refuse(self, question: Any, context: Any) -> Any:
        context.set_trailing_metadata(((CODE_KEY, "no-such-thing"), (HINT_KEY, "make%20it, %C3%BC")))
        context.abort(grpc.StatusCode.NOT_FOUND, "there is no Röti, 100 % sure")

    def sleep(self, question: Any, context: Any) -> Any:
        time.sleep(2)
        return Answer()

    def talk(self, questions: Iterator[Any], context: Any) -> Iterator[Any]:
        for question in questions:
            yield Answer(python_minor=question.environment_hash)

    def end(self, questions: Iterator[Any], context: Any) -> Iterator[Any]:
        question = next(questions)
        yield Answer(python_minor="the last word")
        if question.environment_hash:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, question.environment_hash)

    def hang(self, questions: Iterator[Any], context: Any) -> Iterator[Any]:
        context.add_callback(self.given_up.set)
        yield Answer(python_minor="here")
        self.given_up.wait(30)

    def large(self, questions: Iterator[Any], context: Any) -> Iterator[Any]:
        for question in questions:
            yield Answer(lock_text=question.environment_hash * 4)


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create("channels")


@pytest.fixture
def server(authority: CertificateAuthority) -> Iterator[Server]:
    service = Service()
    credentials = grpc.ssl_server_credentials(
        [leaf(authority, "daemon", dns=["clusteraid"], server=True)], authority.cert_pem, require_client_auth=True
    )
    threads = ThreadPoolExecutor(8)
    listening = grpc.server(threads, handlers=[service], options=SERVER_OPTIONS)
    port = listening.add_secure_port("127.0.0.1:0", credentials)
    listening.start()
    key, chain = leaf(authority, "node/n")
    yield Server(f"127.0.0.1:{port}", service.given_up, Trust(authority.cert_pem, chain, key), listening)
    service.given_up.set()
    listening.stop(0).wait(30)
    threads.shutdown()


def leaf(authority: CertificateAuthority, name: str, **more: Any) -> tuple[bytes, bytes]:
    key = new_key()
    issued = authority.issue(new_csr(key), f"spiffe://c/{name}", **more)
    return key_pem(key), issued.chain_pem


@asynccontextmanager
async def opened(kind: Any, address: str, trust: Trust, patience: Patience = PATIENCE) -> AsyncIterator[Channel]:
    channel = kind(address, trust, patience)
    try:
        yield channel
    finally:
        await channel.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_is_answered(kind: Any, server: Server) -> None:
    async with opened(kind, server.address, server.trust) as channel:
        answers = await asyncio.gather(
            *(channel.call(ASK, Question(environment_hash=str(number)), 30) for number in range(50))
        )
        assert [answer.python_minor for answer in answers] == [str(number) for number in range(50)]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_server_takes_the_first_hello(kind: Any, server: Server) -> None:
    """A hello whose key is on a curve that the server does not take costs another round trip, and the work of both."""
    said = bytearray()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours, theirs = await asyncio.open_connection(*split_address(server.address, 0))
        await asyncio.gather(pump(reader, theirs, bytearray()), pump(ours, writer, said))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as listening:
        address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with opened(kind, address, server.trust) as channel:
            await channel.call(ASK, Question(), 30)
    assert said[:1] == b"\x16"  # a record of the handshake
    assert HELLO_RETRY_REQUEST not in said


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            seen += data
            writer.write(data)
    writer.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_arrives_as_it_was(kind: Any, server: Server) -> None:
    async with opened(kind, server.address, server.trust) as channel:
        with pytest.raises(RemoteError) as refused:
            await channel.call(REFUSE, Question(), 30)
    assert str(refused.value) == "there is no Röti, 100 % sure"
    assert (refused.value.code, refused.value.status) == ("no-such-thing", Status.NOT_FOUND)
    assert refused.value.advice == "make it, ü"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_method_that_the_server_does_not_know_has_a_hint(kind: Any, server: Server) -> None:
    async with opened(kind, server.address, server.trust) as channel:
        with pytest.raises(RemoteError, match=r"127\.0\.0\.1") as refused:
            await channel.call(replace(ASK, path="/test.Service/New"), Question(), 30)
    assert refused.value.code == "unimplemented"
    assert "older version" in refused.value.advice


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_ends_at_its_limit(kind: Any, server: Server) -> None:
    async with opened(kind, server.address, server.trust) as channel:
        await channel.call(ASK, Question(), 30)
        with pytest.raises(TimedOut, match=server.address):
            await channel.call(SLEEP, Question(), 0.5)
        stream = channel.stream(HANG, 3.0)
        assert await stream.write(Question())
        assert (await stream.read()).python_minor == "here"
        with pytest.raises(TimedOut):
            await stream.read()
        assert await asyncio.to_thread(server.given_up.wait, 30)


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_go_both_ways_in_order(kind: Any, server: Server) -> None:
    async with opened(kind, server.address, server.trust) as channel:
        stream = channel.stream(TALK)

        async def send() -> None:
            for number in range(500):
                assert await stream.write(Question(environment_hash=str(number)))

        sending = asyncio.create_task(send())
        assert [(await stream.read()).python_minor for _ in range(500)] == [str(number) for number in range(500)]
        await sending


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_that_are_larger_than_the_windows_arrive(kind: Any, server: Server) -> None:
    async with opened(kind, server.address, server.trust) as channel:
        stream = channel.stream(LARGE)
        for size in (1, 65_530, 900_000):
            assert await stream.write(Question(environment_hash="x" * size))
            assert len((await stream.read()).lock_text) == 4 * size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sentence", ["", "not you"])
async def test_the_last_message_of_a_server_that_ends_the_call_is_read(
    kind: Any, sentence: str, server: Server
) -> None:
    """All that it sent is there at once: the message, the end, and that it wants to hear no more."""
    async with opened(kind, server.address, server.trust) as channel:
        await channel.call(ASK, Question(), 30)
        for _ in range(5):
            stream = channel.stream(END)
            assert await stream.write(Question(environment_hash=sentence))
            time.sleep(0.1)  # noqa: ASYNC251  this side is busy meanwhile
            assert (await stream.read()).python_minor == "the last word"
            if sentence:
                with pytest.raises(RemoteError, match="not you") as ended:
                    await stream.read()
                assert ended.value.status is Status.DENIED
            else:
                assert await stream.read() is None
            assert not await stream.write(Question())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_is_given_up_ends_at_the_server(kind: Any, server: Server) -> None:
    async with opened(kind, server.address, server.trust) as channel:
        stream = channel.stream(HANG)
        assert await stream.write(Question())
        assert (await stream.read()).python_minor == "here"
        stream.cancel()
        stream.cancel()
        assert await asyncio.to_thread(server.given_up.wait, 30)
        assert not await stream.write(Question())
        assert (await channel.call(ASK, Question(environment_hash="on"), 30)).python_minor == "on"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_goes_away_ends_the_stream(kind: Any, server: Server) -> None:
    async with opened(kind, server.address, server.trust) as channel:
        stream = channel.stream(HANG)
        assert await stream.write(Question())
        await stream.read()
        stopping = server.server.stop(0)
        with pytest.raises((Unreachable, RemoteError)) as ended:
            await stream.read()
        assert str(ended.value)
        assert ended.value.advice
        assert not await stream.write(Question())
        await asyncio.to_thread(stopping.wait, 30)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_stops_lets_a_stream_end_well(kind: Any, server: Server) -> None:
    """It says first that it takes no new calls; what it says after that counts."""
    async with opened(kind, server.address, server.trust) as channel:
        stream = channel.stream(TALK)
        assert await stream.write(Question(environment_hash="before"))
        assert (await stream.read()).python_minor == "before"
        stopping = server.server.stop(5)
        await asyncio.sleep(0.3)
        assert await stream.write(Question(environment_hash="after"))
        assert (await stream.read()).python_minor == "after"
        stream.cancel()
        await asyncio.to_thread(stopping.wait, 30)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", ["server", "client", "nobody"])
async def test_a_stranger_gets_no_call(kind: Any, wrong: str, server: Server) -> None:
    stranger = CertificateAuthority.create("stranger")
    key, chain = leaf(stranger, "node/n")
    trust = {
        "server": replace(server.trust, ca_pem=stranger.cert_pem),
        "client": replace(server.trust, key_pem=key, chain_pem=chain),
        "nobody": Trust(server.trust.ca_pem),
    }[wrong]
    async with opened(kind, server.address, trust) as channel:
        with pytest.raises(Unreachable, match="cannot reach") as refused:
            await channel.call(ASK, Question(), 20)
        assert "certificate" in refused.value.advice
        with pytest.raises(Unreachable):
            await channel.call(ASK, Question(), 20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:7443"])
async def test_an_address_that_leads_nowhere_is_named(kind: Any, address: str, server: Server) -> None:
    async with opened(kind, address, server.trust) as channel:
        with pytest.raises(Unreachable, match=address):
            await channel.call(ASK, Question(), 20)
        stream = channel.stream(TALK)
        assert not await stream.write(Question())
        with pytest.raises(Unreachable, match=address):
            await stream.read()


@pytest.mark.parametrize("kind", KINDS)
async def test_one_that_never_answers_the_handshake_is_given_up(kind: Any, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects, and nobody takes it
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with opened(kind, address, server.trust, Patience(handshake=0.5)) as channel:
            with pytest.raises((Unreachable, TimedOut)):
                await channel.call(ASK, Question(), 3)


async def test_closing_ends_the_calls_of_h2(server: Server) -> None:
    async with opened(H2Channel, server.address, server.trust) as channel:
        stream = channel.stream(TALK)
        assert await stream.write(Question())
        await stream.read()
        await channel.close()
        await channel.close()
        assert not await stream.write(Question())
        for _ in range(2):
            with pytest.raises(Unreachable, match="closed here"):
                await stream.read()
        with pytest.raises(Unreachable, match="closed here"):
            await channel.call(ASK, Question(), 5)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_that_is_given_up_half_way_breaks_no_other(kind: Any, server: Server) -> None:
    async with opened(kind, server.address, server.trust) as channel:
        stream = channel.stream(LARGE)
        assert await stream.write(Question(environment_hash="x"))
        await stream.read()
        writing = asyncio.create_task(stream.write(Question(environment_hash="x" * 900_000)))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        assert writing.cancelled()
        assert await stream.write(Question(environment_hash="xy"))
        assert [len((await stream.read()).lock_text) for _ in range(2)] == [3_600_000, 8]


@pytest.mark.parametrize("kind", KINDS)
async def test_several_may_write_at_once(kind: Any, server: Server) -> None:
    async with opened(kind, server.address, server.trust) as channel:
        stream = channel.stream(LARGE)
        assert await stream.write(Question(environment_hash="x"))
        sizes = [1 << number for number in range(1, 18)]
        writing = asyncio.gather(*(stream.write(Question(environment_hash="x" * size)) for size in sizes))
        assert [len((await stream.read()).lock_text) for _ in range(18)] == [4 * size for size in (1, *sizes)]
        assert await writing == [True] * 17
