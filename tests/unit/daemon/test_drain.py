"""Drains with a store on disk and a pool that a test plays."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clusterai.ids import ClusterId, NodeId
from clusterai.v1.types_pb2 import NodeFacts
from clusteraid.authority import Authority
from clusteraid.dask_control import SchedulerAway, SchedulerRefused
from clusteraid.drain import Drain, DrainCancelled, Drains, DrainTimedOut, NotDraining
from clusteraid.emptying import DrainRefused, NowhereToMove
from clusteraid.events import Events
from clusteraid.holds import held_workers
from clusteraid.nodes import Counter, Node, Nodes
from clusteraid.pools import Pools
from clusteraid.ports import CertificateRecord, Enrolment, Role
from clusteraid.registry import Desired, SessionBroken, SessionOpened, Silent, State
from clusteraid.removal import Removal
from clusteraid.revocation import Revocations
from clusteraid.store import Store
from clusteraid.store_access import AccessStore
from clusteraid.store_nodes import NodeStore
from support.played_pool import PlayedPool, worker

CLUSTER = ClusterId("c1")

@dataclass
class Scene:
    access: AccessStore
    store: NodeStore
    nodes: Nodes
    pool: PlayedPool
    events: Events
    drains: Drains

    def node(self, name: str) -> Node:
        return self.nodes.find(name)

    async def desired(self, name: str) -> str:
        return next(record.desired for record in await self.store.list_nodes() if record.node_id == name)

    async def result(self, drain: Drain | None) -> list[str]:
        """Follow a drain to its end; return the messages."""
        assert drain is not None
        async with asyncio.timeout(60):
            return [progress.message async for progress in self.drains.watch(drain)]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with Store.open(tmp_path / "db") as store:
        access, nodes_store = AccessStore(store, CLUSTER), NodeStore(store, CLUSTER)
        for number, name in enumerate(("alpha", "beta")):
            record = CertificateRecord(str(number), f"spiffe://c1/node/{name}", 5e9)
            facts = NodeFacts(pythons=["3.11"], cpu_count=4, memory_total_bytes=1 << 33).SerializeToString()
            await access.enroll(Enrolment(name, Role.NODE, record, time.time(), facts=facts))
        events, pool = Events(nodes_store), PlayedPool()
        nodes = Nodes(nodes_store, events, Pools(pool), Counter(1))
        await nodes.load()
        for node in nodes:
            nodes.apply(node, SessionOpened(1 << 40))
        async with asyncio.TaskGroup() as tasks:
            drains = Drains(nodes, nodes_store, Pools(pool), events, tasks)
            yield Scene(access, nodes_store, nodes, pool, events, drains)
            for node in nodes:
                drains.cancel(node)


async def test_a_drain_moves_everything_away_and_then_takes_the_workers(scene: Scene) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0", 1, 100), "beta-0": worker("beta-0")}
    drain = await scene.drains.start(scene.node("alpha"), 60)
    assert await scene.desired("alpha") == "draining"
    assert scene.node("alpha").spec.workers
    scene.pool.gate.set()
    messages = await scene.result(drain)
    assert any("2 of 3 results moved" in message for message in messages)
    assert scene.pool.retired == [["alpha-0"]]
    assert await scene.desired("alpha") == "drained"
    assert scene.node("alpha").entry.state is State.DRAINED
    assert not scene.node("alpha").spec.workers
    assert scene.node("alpha").spec.reason == "drained"


async def test_a_second_caller_watches_the_same_drain(scene: Scene) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0"), "beta-0": worker("beta-0")}
    first = await scene.drains.start(scene.node("alpha"), 60)
    assert await scene.drains.start(scene.node("alpha"), 60) is first
    scene.pool.gate.set()
    await asyncio.gather(scene.result(first), scene.result(first))
    assert await scene.drains.start(scene.node("alpha"), 60) is None


async def test_results_with_nowhere_to_go_keep_the_node_in_the_pool(scene: Scene) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0", nbytes=100)}
    drain = await scene.drains.start(scene.node("alpha"), 60)
    with pytest.raises(NowhereToMove, match="no other worker could take them"):
        await scene.result(drain)
    assert await scene.desired("alpha") == "active"
    assert scene.node("alpha").entry.state is State.READY
    assert scene.pool.retired == []


async def test_the_last_worker_can_be_drained_when_it_holds_nothing(scene: Scene) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0")}
    scene.pool.gate.set()
    await scene.result(await scene.drains.start(scene.node("alpha"), 60))
    assert await scene.desired("alpha") == "drained"


async def test_workers_of_a_node_that_is_away_are_no_place_for_results(scene: Scene) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0", nbytes=1), "beta-0": worker("beta-0")}
    scene.nodes.apply(scene.node("beta"), SessionBroken(1 << 40))
    with pytest.raises(NowhereToMove):
        await scene.result(await scene.drains.start(scene.node("alpha"), 60))


async def test_what_the_scheduler_refuses_is_told(scene: Scene) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0"), "beta-0": worker("beta-0")}
    scene.pool.error = SchedulerRefused(op="retire", reason="no room for 3 results")
    with pytest.raises(DrainRefused, match="no room for 3 results"):
        await scene.result(await scene.drains.start(scene.node("alpha"), 60))
    assert await scene.desired("alpha") == "active"


async def test_at_its_deadline_a_drain_gives_the_node_back(scene: Scene) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0"), "beta-0": worker("beta-0")}
    with pytest.raises(DrainTimedOut, match="1 tasks running"):
        await scene.result(await scene.drains.start(scene.node("alpha"), 0.2))
    assert scene.node("alpha").entry.desired is Desired.ACTIVE
    assert "node-drain-failed" in [event.kind for event in scene.events.since(0, 100)]


async def test_undraining_ends_a_drain(scene: Scene) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0"), "beta-0": worker("beta-0")}
    drain = await scene.drains.start(scene.node("alpha"), 60)
    watching = asyncio.create_task(scene.result(drain))
    await asyncio.sleep(0)
    await scene.drains.undrain(scene.node("alpha"))
    with pytest.raises(DrainCancelled):
        await watching
    assert scene.node("alpha").entry.state is State.READY
    with pytest.raises(NotDraining):
        await scene.drains.undrain(scene.node("alpha"))


async def test_a_new_daemon_goes_on_with_a_drain(scene: Scene) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0"), "beta-0": worker("beta-0")}
    await scene.store.set_desired(NodeId("alpha"), "draining", time.time() + 60)
    nodes = Nodes(scene.store, scene.events, Pools(scene.pool), Counter(2))
    await nodes.load()
    scene.pool.gate.set()
    async with asyncio.TaskGroup() as tasks:
        Drains(nodes, scene.store, Pools(scene.pool), scene.events, tasks).resume()
    assert await scene.desired("alpha") == "drained"
    assert nodes.find("alpha").entry.desired is Desired.DRAINED


async def test_a_scheduler_that_is_away_is_asked_again(scene: Scene, tmp_path: Path) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0"), "beta-0": worker("beta-0")}
    scene.pool.error = SchedulerAway(tmp_path, "not connected")
    drain = await scene.drains.start(scene.node("alpha"), 60)
    while not scene.pool.retired:
        await asyncio.sleep(0.01)
    assert drain is not None
    assert not drain.outcome.done()
    assert "not connected" in drain.progress.message


async def test_workers_are_held_whenever_their_node_may_not_work(scene: Scene) -> None:
    registered = ["alpha-0", "beta-0", "gone-0"]
    assert held_workers(scene.nodes, registered) == {"gone-0"}
    scene.nodes.apply(scene.node("beta"), SessionBroken(1 << 40))
    assert held_workers(scene.nodes, registered) == {"gone-0", "beta-0"}


async def test_a_node_speaks_for_its_own_workers_only(scene: Scene) -> None:
    scene.node("beta").status.workers.add(worker_name="alpha-0")
    scene.node("beta").status.workers.add(worker_name="beta-7")
    scene.nodes.apply(scene.node("beta"), SessionBroken(1 << 40))
    assert held_workers(scene.nodes, ["alpha-0"]) == {"beta-0", "beta-7"}


async def test_a_restarted_daemon_holds_nobody_until_the_grace_time_is_over(scene: Scene) -> None:
    nodes = Nodes(scene.store, scene.events, Pools(scene.pool), Counter(2))
    await nodes.load()
    assert {node.entry.state for node in nodes} == {State.SUSPECT}
    assert held_workers(nodes, ["alpha-0", "beta-0", "gone-0"]) == {"gone-0"}
    nodes.apply(nodes.find("beta"), Silent())
    assert held_workers(nodes, ["alpha-0", "beta-0"]) == {"beta-0"}


async def test_a_resumed_drain_moves_results_to_nodes_that_are_still_to_come_back(scene: Scene) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0", nbytes=9), "beta-0": worker("beta-0")}
    scene.pool.gate.set()
    await scene.store.set_desired(NodeId("alpha"), Desired.DRAINING.value, time.time() + 60)
    nodes = Nodes(scene.store, scene.events, Pools(scene.pool), Counter(2))
    await nodes.load()
    async with asyncio.TaskGroup() as tasks:
        Drains(nodes, scene.store, Pools(scene.pool), scene.events, tasks).resume()
    assert scene.pool.retired == [["alpha-0"]]
    assert nodes.find("alpha").entry.desired is Desired.DRAINED


@pytest.mark.parametrize("away", [False, True])
async def test_a_removed_nodes_workers_are_closed_where_there_is_a_scheduler(
    scene: Scene, tmp_path: Path, away: bool
) -> None:
    scene.pool.workers = {"alpha-0": worker("alpha-0"), "beta-0": worker("beta-0")}
    scene.pool.error = SchedulerAway(tmp_path, "not connected") if away else None
    revocations = Revocations(scene.access, time.time)
    authority = Authority.open(tmp_path / "pki")
    removal = Removal(scene.nodes, scene.store, scene.drains, Pools(scene.pool), authority, revocations)
    await removal.remove(scene.node("alpha"))
    assert list(scene.pool.workers) == (["alpha-0", "beta-0"] if away else ["beta-0"])
    assert [record.node_id for record in await scene.store.list_nodes()] == ["beta"]


async def test_what_a_machine_is_called_makes_no_second_line_of_an_event(scene: Scene) -> None:
    scene.events.note("node-cloned", "alpha", "two machines (one\n<3>clusteraid: all is lost\x1b[31m and another)")
    (event,) = scene.events.since(0, 1)
    assert event.message.isprintable()


async def test_a_node_of_another_python_is_known_as_such_when_it_joins_and_after_a_restart(scene: Scene) -> None:
    facts = NodeFacts(pythons=["3.13"], cpu_count=4).SerializeToString()
    enrolment = Enrolment("gamma", Role.NODE, CertificateRecord("9", "spiffe://c1/node/gamma", 5e9), 1.0, facts=facts)
    await scene.access.enroll(enrolment)
    scene.nodes.node_enrolled(enrolment)
    restarted = Nodes(scene.store, scene.events, Pools(scene.pool), Counter(2))
    await restarted.load()
    for nodes in (scene.nodes, restarted):
        node = nodes.find("gamma")
        assert node.entry.misfit is not None
        assert not node.spec.workers
        assert not node.entry.is_counted_on
