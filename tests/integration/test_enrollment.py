"""Joining over the real wire: what works, and how each refusal is said."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from clusterai.enroll_client import Enrolled, WrongAuthority, enroll, fetch_ca
from clusterai.errors import Unreachable
from clusterai.pki import new_csr, new_key, serial_of
from clusterai.remote import RemoteError
from clusterai.rpc import from_rpc_error, secure_channel
from clusterai.shown_certificates import ClockDiffers
from clusterai.tokens import JoinToken
from clusterai.v1.enrollment_pb2 import EnrollRequest, EnrollResponse
from clusterai.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from clusterai.v1.operator_pb2 import ListOperatorsRequest
from clusterai.v1.operator_pb2_grpc import OperatorServiceStub
from clusterai.v1.token_pb2 import ROLE_ADMIN
from clusterai.v1.types_pb2 import NodeFacts
from clusteraid.join_tokens import TokenRequest
from clusteraid.ports import Role
from fakes.http import stop_listening
from support.trust import Trust

DAY = 86400.0


@pytest.fixture
async def trust(tmp_path: Path) -> AsyncIterator[Trust]:
    async with Trust.open(tmp_path) as opened, opened.serving():
        yield opened


async def join(trust: Trust, token: JoinToken, name: str = "pi4") -> Enrolled:
    facts = NodeFacts(hostname=name[:50], clock_unix_seconds=time.time())
    return await enroll(trust.enrollment_address, token, name=name, facts=facts)


async def refusal(trust: Trust, token: JoinToken, name: str = "pi4") -> RemoteError:
    """Return how the server refused; every refusal is a sentence and a hint."""
    with pytest.raises(RemoteError) as refused:
        await join(trust, token, name)
    assert len(str(refused.value)) > 10
    assert refused.value.advice
    return refused.value


async def test_a_machine_joins_with_a_token(trust: Trust) -> None:
    enrolled = await join(trust, await trust.token())
    assert str(enrolled.identity) == f"spiffe://{trust.authority.cluster_id}/node/pi4"
    assert enrolled.ca_pem == trust.authority.ca_pem
    assert enrolled.server_addresses == (trust.address,)
    assert (await trust.facts("pi4")).hostname == "pi4"
    assert trust.events.kinds() == ["token-created", "token-used"]


async def test_a_bound_token_gives_the_name(trust: Trust) -> None:
    enrolled = await join(trust, await trust.token(TokenRequest(bound_name="tower")), "")
    assert enrolled.identity.name == "tower"


async def test_a_person_joins_as_operator_and_may_call_at_once(trust: Trust) -> None:
    token = await trust.token(TokenRequest(role=Role.ADMIN, bound_name="ada"))
    enrolled = await enroll(trust.enrollment_address, token, name="", facts=None)
    async with channel(trust, enrolled.key_pem, enrolled.chain_pem) as opened:
        listed = await OperatorServiceStub(opened).ListOperators(ListOperatorsRequest(), timeout=60)
    assert [(operator.name, operator.role) for operator in listed.operators] == [("ada", ROLE_ADMIN)]


@pytest.mark.parametrize(("role", "facts"), [(Role.NODE, None), (Role.OPERATOR, NodeFacts(hostname="pi4"))])
async def test_a_machine_s_token_lets_in_no_person_and_the_other_way_round(
    trust: Trust, role: Role, facts: NodeFacts | None
) -> None:
    token = await trust.token(TokenRequest(role=role))
    with pytest.raises(RemoteError, match="it was not used") as refused:
        await enroll(trust.enrollment_address, token, name="pi4", facts=facts)
    assert "clusteractl token create" in refused.value.advice
    assert trust.events.kinds() == ["token-created"]


async def test_a_wrong_secret_and_an_unknown_token_are_told_apart_by_nobody(trust: Trust) -> None:
    token = await trust.token()
    wrong_secret = await refusal(trust, replace(token, secret="a" * 26))
    unknown = await refusal(trust, replace(token, token_id="aaaaaaaa"))
    assert wrong_secret.code == unknown.code == "token-refused"
    assert str(wrong_secret) == str(unknown).replace("aaaaaaaa", token.token_id)
    assert trust.events.kinds().count("join-refused") == 2


async def test_an_expired_token_says_so_and_what_to_do(trust: Trust) -> None:
    token = await trust.token(TokenRequest(ttl_seconds=60))
    trust.clock.ahead = 13 * 60
    refused = await refusal(trust, token)
    assert str(refused) == f"join token {token.token_id} expired 12 min ago"
    assert "clusteractl token create" in refused.advice
    assert refused.status.exit_code == 4


async def test_a_revoked_token_admits_nobody(trust: Trust) -> None:
    token = await trust.token()
    await trust.tokens.revoke(token.token_id)
    assert (await refusal(trust, token)).code == "token-revoked"


async def test_a_token_works_once(trust: Trust) -> None:
    token = await trust.token()
    await join(trust, token, "first")
    assert "already used once" in str(await refusal(trust, token, "second"))
    assert await trust.nodes() == ["first"]


async def test_of_many_at_once_one_gets_in(trust: Trust) -> None:
    token = await trust.token()
    async with secure_channel(trust.enrollment_address, ca_pem=trust.authority.ca_pem) as opened:
        stub = EnrollmentServiceStub(opened)
        calls = [stub.Enroll(request_of(token, f"n{number}"), timeout=60) for number in range(20)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, EnrollResponse) for outcome in outcomes) == 1
    assert len(await trust.nodes()) == 1


async def test_a_token_with_uses_serves_that_many(trust: Trust) -> None:
    token = await trust.token(TokenRequest(use_limit=2))
    await join(trust, token, "first")
    await join(trust, token, "second")
    assert "already used 2 times" in str(await refusal(trust, token, "third"))


async def test_a_token_for_another_name_is_refused_and_names_both(trust: Trust) -> None:
    refused = await refusal(trust, await trust.token(TokenRequest(bound_name="tower")), "pi4")
    assert "is for tower, not for pi4" in str(refused)
    assert "--name tower" in refused.advice


async def test_a_token_of_another_cluster_is_never_sent(trust: Trust, tmp_path: Path) -> None:
    async with Trust.open(tmp_path / "other") as other:
        foreign = await other.token()
    with pytest.raises(WrongAuthority, match="the secret was not sent") as refused:
        await join(trust, foreign)
    assert "clusteractl token create" in refused.value.advice
    assert trust.events.kinds() == []


async def test_a_name_in_use_is_not_given_away(trust: Trust) -> None:
    await join(trust, await trust.token())
    token = await trust.token()
    refused = await refusal(trust, token)
    assert refused.code == "name-taken"
    assert "clusteractl node remove pi4" in refused.advice
    assert "--name" in refused.advice
    assert await trust.uses(token) == 0


async def test_a_token_for_the_name_enrols_it_again_and_ends_the_old_certificates(trust: Trust) -> None:
    ended: list[str] = []
    trust.revocations.on_revoked(lambda identity: ended.append(str(identity)))
    first = await join(trust, await trust.token())
    second = await join(trust, await trust.token(TokenRequest(bound_name="pi4")))
    assert ended == [str(first.identity)]
    assert trust.revocations.is_revoked(serial_of(first.chain_pem))
    assert not trust.revocations.is_revoked(serial_of(second.chain_pem))


@pytest.mark.parametrize(
    "name", ["a/b", "..", "../../etc/passwd", "a\0b", "pi4\n", "Пи", "a" * 64, "x" * 10_000, "PI4"]
)
async def test_a_hostile_name_is_refused_short(trust: Trust, name: str) -> None:
    refused = await refusal(trust, await trust.token(), name)
    assert refused.code == "invalid-name"
    assert len(str(refused)) < 500
    assert await trust.nodes() == []


async def test_a_name_is_needed(trust: Trust) -> None:
    assert "--name" in (await refusal(trust, await trust.token(), "")).advice


async def test_a_clock_a_day_ahead_is_refused_naming_both_clocks(trust: Trust) -> None:
    with pytest.raises(RemoteError, match="clocks differ") as refused:
        token = await trust.token()
        await enroll(trust.enrollment_address, token, name="pi4", facts=NodeFacts(), clock=lambda: time.time() + DAY)
    today, tomorrow = (datetime.fromtimestamp(time.time() + ahead, UTC) for ahead in (0, DAY))
    assert f"here, on the server, it is {today:%F %H}" in str(refused.value)
    assert f"on your machine it is {tomorrow:%F %H}" in str(refused.value)
    assert "timedatectl" in refused.value.advice


async def test_a_clock_a_day_behind_is_noticed_before_the_secret_is_sent(trust: Trust) -> None:
    token = await trust.token()
    with pytest.raises(ClockDiffers, match="this machine's clock says") as refused:
        await enroll(trust.enrollment_address, token, name="pi4", facts=None, clock=lambda: time.time() - DAY)
    assert "timedatectl" in refused.value.advice
    assert trust.events.kinds() == ["token-created"]


@pytest.mark.parametrize("clock", [0.0, -1.0, float("nan"), float("inf"), 1e300])
async def test_a_clock_that_is_no_time_is_refused(trust: Trust, clock: float) -> None:
    async with secure_channel(trust.enrollment_address, ca_pem=trust.authority.ca_pem) as opened:
        request = request_of(await trust.token(), "pi4", clock=clock)
        with pytest.raises(grpc.aio.AioRpcError, match="clock") as refused:
            await EnrollmentServiceStub(opened).Enroll(request, timeout=60)
    assert from_rpc_error(refused.value, "x").advice


async def test_facts_without_end_are_refused(trust: Trust) -> None:
    token = await trust.token()
    for size, sentence in ((100_000, "facts: longer"), (2_000_000, "larger than max")):
        with pytest.raises(RemoteError, match=sentence) as refused:
            await enroll(trust.enrollment_address, token, name="pi4", facts=NodeFacts(hostname="x" * size))
        assert refused.value.advice
    assert await trust.uses(token) == 0


async def test_guessing_ends_after_a_few_tries_and_says_how_long(trust: Trust) -> None:
    token = await trust.token()
    async with secure_channel(trust.enrollment_address, ca_pem=trust.authority.ca_pem) as opened:
        stub = EnrollmentServiceStub(opened)
        for _ in range(20):
            with pytest.raises(grpc.aio.AioRpcError, match="unknown here"):
                await stub.Enroll(request_of(replace(token, secret="b" * 26), "pi4"), timeout=60)
        with pytest.raises(grpc.aio.AioRpcError, match="too many refused attempts from 127") as refused:
            await stub.Enroll(request_of(token, "pi4"), timeout=60)
        assert "wait" in from_rpc_error(refused.value, "x").advice
        trust.clock.ahead = 61
        assert await stub.Enroll(request_of(token, "pi4", clock=trust.clock()), timeout=60)


async def test_nobody_there_is_unreachable() -> None:
    with socket.socket() as reserved:  # bound and not listening: refuses
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="cannot reach 127") as refused:
            await fetch_ca(f"127.0.0.1:{reserved.getsockname()[1]}", None)
    assert refused.value.advice
    assert refused.value.status.exit_code == 5


async def test_something_else_there_is_told(trust: Trust) -> None:
    async with await asyncio.start_server(answer_in_plain_text, "127.0.0.1", 0) as other:
        with pytest.raises(Unreachable, match="does not speak TLS"):
            await fetch_ca(f"127.0.0.1:{other.sockets[0].getsockname()[1]}", None)
        await stop_listening(other)


async def answer_in_plain_text(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_a_request_for_no_certificate_costs_no_token(trust: Trust) -> None:
    token = await trust.token()
    request = request_of(token, "pi4")
    request.csr_der = b"nonsense"
    async with secure_channel(trust.enrollment_address, ca_pem=trust.authority.ca_pem) as opened:
        with pytest.raises(grpc.aio.AioRpcError, match="certificate request"):
            await EnrollmentServiceStub(opened).Enroll(request, timeout=60)
    assert await trust.uses(token) == 0


def request_of(token: JoinToken, name: str, clock: float | None = None) -> EnrollRequest:
    return EnrollRequest(
        token_id=token.token_id,
        token_secret=token.secret,
        csr_der=new_csr(new_key()),
        node_name=name,
        facts=NodeFacts(hostname=name),
        clock_unix_seconds=time.time() if clock is None else clock,
    )


def channel(trust: Trust, key_pem: bytes, chain_pem: bytes) -> grpc.aio.Channel:
    return secure_channel(trust.address, ca_pem=trust.authority.ca_pem, key_pem=key_pem, chain_pem=chain_pem)
