"""Nodes as a real daemon lists them: as a table needs them, and with all that is known."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusteractl.views.nodes import node_list
from clusterai.v1.node_admin_pb2 import (
    NODE_STATE_DRAINED,
    NODE_VIEW_BASIC,
    NODE_VIEW_FULL,
    NODE_VIEW_UNSPECIFIED,
    DrainNodeRequest,
    ListNodesRequest,
    Node,
    NodeView,
)
from clusterai.v1.node_admin_pb2_grpc import NodeAdminServiceStub
from clusterai.v1.node_pb2 import NodeStatus
from clusterai.v1.types_pb2 import WORKER_STATE_FAILED, WORKER_STATE_STARTING, GpuFacts, WorkerState, WorkerStatus
from support.killable import KillableDaemon, killable_daemon
from support.sim_node import SimNode, SimSession, operator, sim_node

GPU = GpuFacts(uuid="GPU-1", name="NVIDIA GeForce RTX 4090", memory_total_bytes=24 << 30, driver_version="550.1")
PATIENT = "[session]\nheartbeat_seconds = 10\noffline_seconds = 300\n"  # nobody falls silent between two listings
SHOWN = {  # by NODE_VIEW_BASIC, as docs and proto say it
    "node_id", "state", "reason", "hint", "pool_name", "last_heard_unix_seconds", "facts", "workers", "sample",
}  # fmt: skip


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[KillableDaemon]:
    async with killable_daemon(tmp_path, settings=PATIENT) as running:
        yield running


@pytest.fixture
async def tower(daemon: KillableDaemon) -> AsyncIterator[SimNode]:
    async with sim_node(daemon, "tower") as enrolled:
        yield enrolled


async def listed(daemon: KillableDaemon, view: NodeView, *, samples: bool = True) -> list[Node]:
    async with operator(daemon, NodeAdminServiceStub) as stub:
        return list((await stub.ListNodes(ListNodesRequest(with_samples=samples, view=view), timeout=60)).nodes)


async def table(daemon: KillableDaemon, view: NodeView, now: float) -> list[object]:
    return list(node_list(await listed(daemon, view), now, 80))


async def heard(session: SimSession, daemon: KillableDaemon) -> None:
    await session.beat()
    async with asyncio.timeout(60):
        while not (await listed(daemon, NODE_VIEW_FULL))[0].HasField("sample"):
            await asyncio.sleep(0.02)


def worker(state: WorkerState) -> NodeStatus:
    failed = state == WORKER_STATE_FAILED
    return NodeStatus(workers=[WorkerStatus(worker_name="tower-0", state=state, reason="no room" if failed else "")])


async def test_a_table_is_the_same_whichever_view_it_is_made_of(daemon: KillableDaemon, tower: SimNode) -> None:
    now = time.time() + 1000
    assert await table(daemon, NODE_VIEW_BASIC, now) == await table(daemon, NODE_VIEW_FULL, now)
    session = await tower.session(gpus=[GPU], status=worker(WORKER_STATE_STARTING), hostname="tower.lan")
    await heard(session, daemon)
    async with sim_node(daemon, "old", pythons=["3.9"]) as old:
        its_session = await old.session(pythons=["3.9"])
        assert not its_session.welcome.spec.workers
        shown = await table(daemon, NODE_VIEW_BASIC, now)
        assert shown == await table(daemon, NODE_VIEW_FULL, now) == await table(daemon, NODE_VIEW_UNSPECIFIED, now)
        assert any("old is incompatible" in str(block) for block in shown)


async def test_the_basic_view_has_what_a_table_shows_and_no_more(daemon: KillableDaemon, tower: SimNode) -> None:
    await heard(await tower.session(gpus=[GPU], status=worker(WORKER_STATE_STARTING)), daemon)
    (basic,) = await listed(daemon, NODE_VIEW_BASIC)
    assert {field.name for field, _ in basic.ListFields()} <= SHOWN
    assert {field.name for field, _ in basic.facts.ListFields()} == {"cpu_count", "memory_total_bytes", "gpus"}
    assert basic.facts.gpus[0] == GpuFacts(name=GPU.name)
    assert basic.workers[0] == WorkerStatus(worker_name="tower-0", state=WORKER_STATE_STARTING)
    assert [field.name for field, _ in basic.sample.ListFields()] == ["load_1min"]
    assert basic.sample.load_1min == 1
    (without,) = await listed(daemon, NODE_VIEW_BASIC, samples=False)
    assert not without.HasField("sample")


async def test_a_change_is_seen_in_both_views(daemon: KillableDaemon, tower: SimNode) -> None:
    session = await tower.session(gpus=[GPU], status=worker(WORKER_STATE_STARTING))
    await asyncio.gather(*(listed(daemon, view) for view in (NODE_VIEW_BASIC, NODE_VIEW_FULL)))  # made, and kept
    await session.report(worker(WORKER_STATE_FAILED))
    async with asyncio.timeout(60):
        for view in (NODE_VIEW_BASIC, NODE_VIEW_FULL):
            while (await listed(daemon, view))[0].workers[0].state != WORKER_STATE_FAILED:
                await asyncio.sleep(0.02)
    async with operator(daemon, NodeAdminServiceStub) as stub:
        async for _ in stub.DrainNode(DrainNodeRequest(node_id="tower"), timeout=60):
            pass
    states = {(await listed(daemon, view))[0].state for view in (NODE_VIEW_BASIC, NODE_VIEW_FULL)}
    assert states == {NODE_STATE_DRAINED}
    again = await tower.session("second", cpu_count=64)
    assert again.welcome.node_id == "tower"
    counts = {(await listed(daemon, view))[0].facts.cpu_count for view in (NODE_VIEW_BASIC, NODE_VIEW_FULL)}
    assert counts == {64}
