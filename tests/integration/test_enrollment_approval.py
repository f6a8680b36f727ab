"""Joining without a token: two people, one code."""

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from clusterai.approval import commitment, new_nonce
from clusterai.enroll_client import ApprovalEnded, Enrolled, request_approval
from clusterai.errors import ClusterAIError
from clusterai.pki import new_csr, new_key
from clusterai.remote import RemoteError
from clusterai.rpc import from_rpc_error, secure_channel
from clusterai.v1 import enrollment_pb2 as pb
from clusterai.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from clusterai.v1.types_pb2 import NodeFacts
from clusteraid.approvals import CodesDiffer, NothingToApprove
from support.trust import Trust
from support.waiting import until


@pytest.fixture
async def trust(tmp_path: Path) -> AsyncIterator[Trust]:
    async with Trust.open(tmp_path) as opened, opened.serving():
        yield opened


class Person:
    """Someone at the node: sees the code, answers when told to."""

    def __init__(self) -> None:
        self.code: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def confirm(self, code: str) -> bool:
        self.code.set_result(code)
        return await self.answer


def asking(trust: Trust, confirm: Callable[[str], Awaitable[bool]], name: str = "pi4") -> "asyncio.Task[Enrolled]":
    facts = NodeFacts(hostname=name, clock_unix_seconds=time.time())
    return asyncio.create_task(request_approval(trust.enrollment_address, name=name, facts=facts, confirm=confirm))


async def code_at_the_server(trust: Trust) -> str:
    await until(trust.approvals.waiting)
    return trust.approvals.waiting()[0].code


@pytest.mark.parametrize("first", ["node", "server"])
async def test_both_sides_see_one_code_and_confirm_in_any_order(trust: Trust, first: str) -> None:
    person = Person()
    asked = asking(trust, person.confirm)
    code = await person.code
    assert code == await code_at_the_server(trust)
    steps: list[Callable[[], object]] = [
        lambda: person.answer.set_result(True),
        lambda: trust.approvals.approve("pi4", code.lower()),
    ]
    for step in steps if first == "node" else reversed(steps):
        assert not asked.done()
        step()
        await asyncio.sleep(0.05)
    enrolled = await asyncio.wait_for(asked, 60)
    assert enrolled.identity.name == "pi4"
    assert await trust.nodes() == ["pi4"]
    assert trust.approvals.waiting() == ()


async def test_the_server_s_approval_alone_issues_nothing(trust: Trust) -> None:
    person = Person()
    asked = asking(trust, person.confirm)
    trust.approvals.approve("pi4", await code_at_the_server(trust))
    await asyncio.sleep(0.2)
    assert await trust.nodes() == []
    person.answer.set_result(False)
    with pytest.raises(ApprovalEnded):
        await asked
    assert await trust.nodes() == []


async def test_a_rejection_ends_the_question_at_the_node(trust: Trust) -> None:
    person = Person()
    asked = asking(trust, person.confirm)
    await code_at_the_server(trust)
    trust.approvals.reject("pi4")
    with pytest.raises(RemoteError, match="was rejected") as refused:
        await asyncio.wait_for(asked, 60)
    assert refused.value.status.exit_code == 4
    assert refused.value.advice
    assert person.answer.cancelled()


async def test_a_node_that_saw_another_code_raises_an_event(trust: Trust) -> None:
    person = Person()
    asked = asking(trust, person.confirm)
    await code_at_the_server(trust)
    person.answer.set_result(False)
    with pytest.raises(ApprovalEnded, match="codes differ"):
        await asked
    await until(lambda: not trust.approvals.waiting())
    assert "approval-codes-differ" in trust.events.kinds()
    assert await trust.nodes() == []


async def test_the_node_s_word_counts_though_the_server_ends_the_round_at_it(
    trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_grpc: Any = importlib.import_module("grpc.aio._call").StreamStreamCall
    write = of_grpc.write

    async def slow_to_return(call: Any, message: pb.RequestApprovalRequest) -> None:
        await write(call, message)
        if message.HasField("confirmed"):
            await asyncio.sleep(0.2)  # the server has answered by then

    monkeypatch.setattr(of_grpc, "write", slow_to_return)
    person = Person()
    asked = asking(trust, person.confirm)
    person.answer.set_result(False)
    with pytest.raises(ApprovalEnded, match="you said that the codes differ"):
        await asked


async def test_nobody_s_decision_ends_the_request(tmp_path: Path) -> None:
    async with Trust.open(tmp_path, approval_seconds=0.5) as trust, trust.serving():
        with pytest.raises(RemoteError, match="nobody approved") as refused:
            await asyncio.wait_for(asking(trust, Person().confirm), 60)
        assert "clusteractl node approve pi4" in refused.value.advice
        assert trust.approvals.waiting() == ()


async def test_a_node_that_goes_away_is_forgotten(trust: Trust) -> None:
    asked = asking(trust, Person().confirm)
    await code_at_the_server(trust)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await until(lambda: not trust.approvals.waiting())


async def test_a_wrong_code_or_name_approves_nobody(trust: Trust) -> None:
    person = Person()
    asked = asking(trust, person.confirm)
    await code_at_the_server(trust)
    for name, code, error in (
        ("pi4", "AAA-AAA", CodesDiffer),
        ("pi4", "", CodesDiffer),
        ("pi5", "x", NothingToApprove),
    ):
        with pytest.raises(error) as refused:
            trust.approvals.approve(name, code)
        assert isinstance(refused.value, ClusterAIError)
        assert refused.value.advice
    trust.approvals.reject("pi4")
    with pytest.raises(RemoteError):
        await asked


async def test_a_name_in_use_cannot_even_ask(trust: Trust) -> None:
    await trust.member("pi4")
    with pytest.raises(RemoteError, match="a node named pi4 already"):
        await asking(trust, Person().confirm)


async def test_a_clock_a_day_off_cannot_ask(trust: Trust) -> None:
    trust.clock.ahead = 86400
    with pytest.raises(RemoteError, match="clocks differ"):
        await asking(trust, Person().confirm)


async def test_one_address_has_few_requests_waiting(trust: Trust) -> None:
    async with secure_channel(trust.enrollment_address, ca_pem=trust.authority.ca_pem) as opened:
        stub = EnrollmentServiceStub(opened)
        calls = []
        for number in range(4):
            calls.append(stub.RequestApproval(timeout=30))
            await calls[-1].write(opening(f"n{number}"))
            assert (await calls[-1].read()).WhichOneof("step") == "challenge"
        with pytest.raises(grpc.aio.AioRpcError, match="no room") as refused:
            await stub.RequestApproval(timeout=30).read()
        assert "clusteractl node list" in from_rpc_error(refused.value, "x").advice
        for call in calls:
            call.cancel()
        assert trust.approvals.waiting() == ()  # no reveal, no code, nothing to show


async def test_streams_that_say_nothing_take_up_few_places_and_give_them_back(trust: Trust) -> None:
    async with secure_channel(trust.enrollment_address, ca_pem=trust.authority.ca_pem) as opened:
        stub = EnrollmentServiceStub(opened)
        calls = [stub.RequestApproval(timeout=60) for _ in range(19)]
        await until(lambda: sum(call.done() for call in calls) == 15, 25)
        assert {await call.code() for call in calls if call.done()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        for call in calls:
            call.cancel()
        asked = asking(trust, Person().confirm)
        await code_at_the_server(trust)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


@pytest.mark.parametrize("nonce", [b"", b"short", b"\0" * 32, b"x" * 100_000])
async def test_a_nonce_other_than_the_committed_one_ends_the_round(trust: Trust, nonce: bytes) -> None:
    async with secure_channel(trust.enrollment_address, ca_pem=trust.authority.ca_pem) as opened:
        call = EnrollmentServiceStub(opened).RequestApproval(timeout=30)
        await call.write(opening("pi4"))
        await call.read()
        await call.write(pb.RequestApprovalRequest(reveal=pb.ApprovalReveal(nonce=nonce)))
        with pytest.raises(grpc.aio.AioRpcError, match="committed"):
            await call.read()


@pytest.mark.parametrize(
    "message", [pb.RequestApprovalRequest(), pb.RequestApprovalRequest(confirmed=pb.ApprovalConfirmed(accepted=True))]
)
async def test_steps_out_of_order_end_the_round(trust: Trust, message: pb.RequestApprovalRequest) -> None:
    async with secure_channel(trust.enrollment_address, ca_pem=trust.authority.ca_pem) as opened:
        call = EnrollmentServiceStub(opened).RequestApproval(timeout=30)
        await call.write(message)
        with pytest.raises(grpc.aio.AioRpcError, match="the opening is missing"):
            await call.read()


def opening(name: str) -> pb.RequestApprovalRequest:
    facts = NodeFacts(clock_unix_seconds=time.time())
    return pb.RequestApprovalRequest(
        opening=pb.ApprovalOpening(
            commitment=commitment(new_nonce()), csr_der=new_csr(new_key()), node_name=name, facts=facts
        )
    )
