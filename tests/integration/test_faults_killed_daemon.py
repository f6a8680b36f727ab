"""SIGKILL at any moment: what the daemon acknowledged is there afterwards, and what it did not is whole or absent."""

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from clusterai.pki import new_csr, new_key
from clusterai.rpc import local_channel
from clusterai.tokens import JoinToken
from clusterai.v1.enrollment_pb2 import EnrollRequest
from clusterai.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from clusterai.v1.node_admin_pb2 import DrainNodeRequest, DrainNodeResponse, ListNodesRequest, UndrainNodeRequest
from clusterai.v1.node_admin_pb2_grpc import NodeAdminServiceStub
from clusterai.v1.types_pb2 import NodeFacts
from support.killable import KillableDaemon, killable_daemon

KILLS = 100
LONGEST_LIFE_SECONDS = 0.25
ACTIVE, DRAIN = {"active"}, {"draining", "drained"}


@dataclass
class Acknowledged:
    """What a client was told. A change under way when the power went may have happened or not."""

    enrolled: set[str] = field(default_factory=set)
    serials: int = 0
    desired: dict[str, set[str]] = field(default_factory=dict)


def enrol_request(token: JoinToken, name: str, csr: bytes) -> EnrollRequest:
    """Return what a machine of that name sends to join."""
    return EnrollRequest(
        token_id=token.token_id,
        token_secret=token.secret,
        csr_der=csr,
        node_name=name,
        facts=NodeFacts(hostname=name),
        clock_unix_seconds=time.time(),
    )


async def enrol_on_and_on(daemon: KillableDaemon, token: JoinToken, known: Acknowledged) -> None:
    """Enrol one node after another until the daemon is gone."""
    csr = new_csr(new_key())
    async with daemon.enrollment() as channel:
        stub: Any = EnrollmentServiceStub(channel)
        while True:
            name = f"node-{random.getrandbits(48):x}"
            answer = await stub.Enroll(enrol_request(token, name, csr), timeout=60)
            assert answer.certificate_chain_der
            known.enrolled.add(name)
            known.desired.setdefault(name, ACTIVE)


async def drain_on_and_on(daemon: KillableDaemon, known: Acknowledged) -> None:
    """Drain and undrain nodes until the daemon is gone."""
    async with local_channel(daemon.socket) as channel:
        stub: Any = NodeAdminServiceStub(channel)
        while True:
            name = random.choice(sorted(known.enrolled))
            before = known.desired[name]
            known.desired[name] = ACTIVE | DRAIN
            if before == ACTIVE:
                await first_answer(stub.DrainNode(DrainNodeRequest(node_id=name), timeout=60))
                known.desired[name] = DRAIN
            else:
                with contextlib.suppress(grpc.aio.AioRpcError) if before != DRAIN else contextlib.nullcontext():
                    await stub.UndrainNode(UndrainNodeRequest(node_id=name), timeout=60)
                    known.desired[name] = ACTIVE


async def first_answer(call: Any) -> None:
    """Read the first progress of a drain, which says that it is on disk, and leave; the drain goes on."""
    try:
        assert isinstance(await call.read(), DrainNodeResponse)
    finally:
        call.cancel()


async def killed_under_traffic(daemon: KillableDaemon, known: Acknowledged) -> None:
    """Let both kinds of traffic run, kill the daemon at a random moment, and see both end for that reason."""
    token = await daemon.token(use_limit=1000)
    tasks = [
        asyncio.create_task(enrol_on_and_on(daemon, token, known), name="enrolments"),
        asyncio.create_task(drain_on_and_on(daemon, known), name="drains"),
    ]
    await asyncio.sleep(random.random() * LONGEST_LIFE_SECONDS)
    await daemon.kill()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(ended, grpc.aio.AioRpcError)
        assert ended.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), ended.details()


async def listed(daemon: KillableDaemon) -> set[str]:
    """Return the nodes that operators see."""
    async with local_channel(daemon.socket) as channel:
        stub: Any = NodeAdminServiceStub(channel)
        return {node.node_id for node in (await stub.ListNodes(ListNodesRequest(), timeout=60)).nodes}


def check_store(daemon: KillableDaemon, known: Acknowledged) -> None:
    """Compare the store with what was acknowledged; a node without its certificate would be a half enrolment."""
    desired = dict(daemon.query("SELECT node_id, desired FROM node"))
    wrong = {name: desired.get(name) for name, may in known.desired.items() if desired.get(name) not in may}
    assert wrong == {}
    certified = {identity.rpartition("/")[2] for (identity,) in daemon.query("SELECT identity FROM certificate")}
    assert set(desired) <= certified
    assert daemon.query("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.timeout(600)
async def test_no_acknowledged_change_is_lost_in_a_hundred_kills(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    random.seed(seed)
    known = Acknowledged()
    async with killable_daemon(tmp_path) as daemon:
        token = await daemon.token(use_limit=1000)
        async with daemon.enrollment() as channel:
            stub: Any = EnrollmentServiceStub(channel)
            for name in ("first", "second"):
                await stub.Enroll(enrol_request(token, name, new_csr(new_key())), timeout=60)
                known.enrolled.add(name)
                known.desired[name] = ACTIVE
        for _ in range(KILLS):
            await killed_under_traffic(daemon, known)
            await daemon.start()
            assert known.enrolled <= await listed(daemon)
            check_store(daemon, known)
    assert len(known.enrolled) > KILLS
