"""Nodes that go to rest, with a pool that the test plays: what is told to whom, and in which order."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clusterai.ids import ClusterId
from clusterai.v1.node_pb2 import NodeStatus
from clusterai.v1.types_pb2 import (
    POLICY_STATE_RESTING,
    POLICY_STATE_WORKING,
    WORKER_STATE_RUNNING,
    NodeFacts,
    PolicyStatus,
    WorkerStatus,
)
from clusteraid.dask_control import SchedulerRefused
from clusteraid.drain import Drains
from clusteraid.emptying import Emptying
from clusteraid.events import Events
from clusteraid.holds import held_workers
from clusteraid.nodes import Counter, Node, Nodes
from clusteraid.pools import Pools
from clusteraid.ports import CertificateRecord, Enrolment, Role
from clusteraid.registry import Rest, SessionOpened, State
from clusteraid.resting import Rests
from clusteraid.store import Store
from clusteraid.store_access import AccessStore
from clusteraid.store_nodes import NodeStore
from support.played_pool import PlayedPool, worker

CLUSTER = ClusterId("c1")
RUNNING = [WorkerStatus(worker_name="alpha-0", state=WORKER_STATE_RUNNING)]
BATTERY = "on battery, 41 %; works from 80 % while charging"


def said(*, rests: bool, reason: str = BATTERY, workers: list[WorkerStatus] = RUNNING) -> NodeStatus:
    """What an agent reports."""
    state = POLICY_STATE_RESTING if rests else POLICY_STATE_WORKING
    policy = PolicyStatus(state=state, reason_code="on-battery" if rests else "works", reason=reason if rests else "")
    return NodeStatus(policy=policy, workers=workers)


@dataclass
class Scene:
    nodes: Nodes
    pool: PlayedPool
    events: Events
    drains: Drains
    deadline: float = 60.0

    @property
    def alpha(self) -> Node:
        return self.nodes.find("alpha")

    async def until(self, rest: Rest) -> None:
        """Wait until alpha's rest is so far."""
        async with asyncio.timeout(60):
            while self.alpha.entry.rest is not rest:
                await asyncio.sleep(0.005)

    def noted(self) -> list[str]:
        """The kinds of events so far."""
        return [event.kind for event in self.events.since(0, 1000)]


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
            made = Scene(nodes, pool, events, drains)
            Rests(nodes, Emptying(nodes, Pools(pool)), events, tasks, lambda _: made.deadline)
            pool.workers = {"alpha-0": worker("alpha-0", 1, 100), "beta-0": worker("beta-0")}
            yield made
            for node in nodes:
                drains.cancel(node)
                nodes.status_received(node, said(rests=False))


async def test_a_node_that_goes_to_rest_is_emptied_before_its_workers_are_stopped(scene: Scene) -> None:
    scene.nodes.status_received(scene.alpha, said(rests=True))
    assert (scene.alpha.entry.state, scene.alpha.entry.reason) == (State.RESTING, BATTERY)
    assert held_workers(scene.nodes, scene.pool.workers) == {"alpha-0"}, "no new work, at once"
    assert [one.worker_name for one in scene.alpha.spec.workers] == ["alpha-0"], "it gives its results away first"
    scene.pool.gate.set()
    await scene.until(Rest.DONE)
    assert scene.pool.retired == [["alpha-0"]]
    assert not scene.alpha.spec.workers
    assert scene.alpha.spec.reason == "resting"
    assert scene.alpha.entry.state is State.RESTING
    assert "node-resting" in scene.noted()
    assert "node-rest-forced" not in scene.noted()


async def test_a_node_that_works_again_has_its_workers_again(scene: Scene) -> None:
    scene.nodes.status_received(scene.alpha, said(rests=True))
    scene.pool.gate.set()
    await scene.until(Rest.DONE)
    scene.nodes.status_received(scene.alpha, said(rests=False, workers=[]))
    assert scene.alpha.entry.state is State.READY
    assert [one.worker_name for one in scene.alpha.spec.workers] == ["alpha-0"]


async def test_a_node_that_works_again_on_its_way_to_rest_stays_in_the_pool(scene: Scene) -> None:
    scene.nodes.status_received(scene.alpha, said(rests=True))
    await asyncio.sleep(0)
    generation = scene.alpha.spec.generation
    scene.nodes.status_received(scene.alpha, said(rests=False))
    scene.pool.gate.set()
    await asyncio.sleep(0.05)
    assert "alpha-0" in scene.pool.workers
    assert held_workers(scene.nodes, scene.pool.workers) == frozenset()
    assert scene.alpha.spec.generation == generation, "its workers ran all the time"


async def test_a_restarted_daemon_starts_no_workers_of_a_node_at_rest(scene: Scene) -> None:
    scene.pool.workers.clear()
    scene.nodes.status_received(scene.alpha, said(rests=True, workers=[]))
    assert not scene.alpha.spec.workers
    await scene.until(Rest.DONE)
    assert not scene.pool.retired


async def test_at_its_deadline_a_node_rests_all_the_same_and_it_is_told(scene: Scene) -> None:
    scene.deadline = 0.2
    scene.nodes.status_received(scene.alpha, said(rests=True))
    await scene.until(Rest.DONE)
    assert not scene.alpha.spec.workers
    assert "node-rest-forced" in scene.noted()
    [event] = [event for event in scene.events.since(0, 1000) if event.kind == "node-rest-forced"]
    assert "2 of 3 results moved" in event.message


async def test_results_with_nowhere_to_go_wait_for_another_worker(scene: Scene) -> None:
    del scene.pool.workers["beta-0"]
    scene.nodes.status_received(scene.alpha, said(rests=True))
    await asyncio.sleep(0.05)
    assert not scene.pool.retired
    scene.pool.workers["beta-0"] = worker("beta-0")
    scene.pool.gate.set()
    await scene.until(Rest.DONE)
    assert scene.pool.retired == [["alpha-0"]]


async def test_a_scheduler_that_refuses_is_asked_again(scene: Scene) -> None:
    scene.pool.error = SchedulerRefused(op="retire", reason="it is busy")
    scene.nodes.status_received(scene.alpha, said(rests=True))
    await asyncio.sleep(0.05)
    scene.pool.error = None
    scene.pool.gate.set()
    await scene.until(Rest.DONE)


async def test_a_drain_that_an_operator_asked_for_comes_first(scene: Scene) -> None:
    scene.nodes.status_received(scene.alpha, said(rests=True))
    await asyncio.sleep(0)
    drain = await scene.drains.start(scene.alpha, 60)
    assert drain is not None
    scene.pool.gate.set()
    async with asyncio.timeout(60):
        await asyncio.shield(drain.outcome)
    assert scene.alpha.entry.state.value == "drained"
    await scene.drains.undrain(scene.alpha)
    assert scene.alpha.entry.state.value == "resting"
    await scene.until(Rest.DONE)


async def test_a_node_that_is_removed_on_its_way_to_rest_is_forgotten(scene: Scene) -> None:
    node = scene.alpha
    scene.nodes.status_received(node, said(rests=True))
    await asyncio.sleep(0)
    scene.nodes.remove(node)
    scene.pool.gate.set()
    await asyncio.sleep(0.05)
    assert node.entry.rest is Rest.DRAINING


async def test_an_agent_that_knows_no_policy_works(scene: Scene) -> None:
    scene.nodes.status_received(scene.alpha, NodeStatus(workers=RUNNING))
    assert scene.alpha.entry.state is State.READY
    assert not scene.alpha.spec.HasField("policy")


async def test_what_a_node_says_is_short_and_printable(scene: Scene) -> None:
    scene.nodes.status_received(scene.alpha, said(rests=True, reason="\x1b[2J\n" + "x" * 5000))
    assert scene.alpha.entry.reason.isprintable()
    assert len(scene.alpha.entry.reason) <= 300
