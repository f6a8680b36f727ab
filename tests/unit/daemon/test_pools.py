"""Two pools side by side: which node belongs to which, and that what happens to a node touches its own pool only."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clusterai.ids import ClusterId, NodeId
from clusterai.v1.node_pb2 import NodeSpec, NodeStatus
from clusterai.v1.types_pb2 import (
    ENVIRONMENT_STATE_BUILDING,
    ENVIRONMENT_STATE_INCOMPATIBLE,
    ENVIRONMENT_STATE_READY,
    MACHINE_CLASS_LAPTOP,
    MACHINE_CLASS_PHONE,
    MACHINE_CLASS_SERVER,
    MACHINE_CLASS_UNSPECIFIED,
    EnvironmentSpec,
    EnvironmentStatus,
    MachineClass,
    NodeFacts,
    WorkerStatus,
)
from clusteraid.drain import Drains
from clusteraid.emptying import NowhereToMove
from clusteraid.events import Events
from clusteraid.holds import Holds
from clusteraid.nodes import Counter, Node, Nodes
from clusteraid.planner import is_phone
from clusteraid.pool_port import PoolPlan
from clusteraid.pools import MobileIsOff, NoSuchPool, Pools
from clusteraid.ports import CertificateRecord, Enrolment, Role
from clusteraid.registry import SessionOpened, State
from clusteraid.store import Store
from clusteraid.store_access import AccessStore
from clusteraid.store_nodes import NodeStore
from clusteraid.views import Views
from support.played_pool import PLAN, PlayedPool, worker

PHONES = EnvironmentSpec(environment_hash="def", python_minor="3.14", versions={"dask": "2026.8.0"})
MOBILE = PoolPlan("mobile", PHONES, "")
OFF = "the pool mobile is off: [mobile] enabled in clusteraid.toml"
CLASSES = {"tower": MACHINE_CLASS_SERVER, "ann": MACHINE_CLASS_LAPTOP, "pixel": MACHINE_CLASS_PHONE}


def facts(machine_class: MachineClass) -> NodeFacts:
    return NodeFacts(
        pythons=["3.11", "3.14"], cpu_count=4, memory_total_bytes=1 << 33, machine_class=machine_class
    )


@dataclass
class Scene:
    store: NodeStore
    events: Events
    nodes: Nodes
    main: PlayedPool
    mobile: PlayedPool
    pools: Pools

    def node(self, name: str) -> Node:
        return self.nodes.find(name)

    def spec(self, name: str) -> NodeSpec:
        return self.node(name).spec


async def built(store: Store, *, enabled: bool) -> Scene:
    access, nodes_store = AccessStore(store, ClusterId("c1")), NodeStore(store, ClusterId("c1"))
    for number, (name, machine_class) in enumerate(CLASSES.items()):
        record = CertificateRecord(str(number), f"spiffe://c1/node/{name}", 5e9)
        told = facts(machine_class).SerializeToString()
        await access.enroll(Enrolment(name, Role.NODE, record, time.time(), facts=told))
    main, mobile = PlayedPool(), PlayedPool(plan=MOBILE)
    main.workers = {"tower-0": worker("tower-0", 1, 100), "ann-0": worker("ann-0")}
    mobile.workers = {"pixel-0": worker("pixel-0", 1, 100)} if enabled else {}
    events, pools = Events(nodes_store), Pools(main, mobile) if enabled else Pools(main)
    nodes = Nodes(nodes_store, events, pools, Counter(1))
    await nodes.load()
    for node in nodes:
        nodes.apply(node, SessionOpened(1 << 40))
    return Scene(nodes_store, events, nodes, main, mobile, pools)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with Store.open(tmp_path / "db") as store:
        yield await built(store, enabled=True)


@pytest.fixture
async def off(tmp_path: Path) -> AsyncIterator[Scene]:
    async with Store.open(tmp_path / "db") as store:
        yield await built(store, enabled=False)


@pytest.mark.parametrize("machine_class", [each for each in MachineClass.values() if each != MACHINE_CLASS_PHONE])
def test_only_phones_are_mobile(machine_class: MachineClass) -> None:
    main, mobile = PlayedPool(), PlayedPool(plan=MOBILE)
    assert Pools(main, mobile).of(is_phone(facts(machine_class))) is main
    assert Pools(main, mobile).of(is_phone(facts(MACHINE_CLASS_PHONE))) is mobile


async def test_each_node_is_told_its_own_pool_and_environment(scene: Scene) -> None:
    assert {name: scene.spec(name).pool.pool_name for name in CLASSES} == {
        "tower": "main", "ann": "main", "pixel": "mobile",
    }  # fmt: skip
    assert scene.spec("pixel").pool.environment == MOBILE.environment
    assert [one.worker_name for one in scene.spec("pixel").workers] == ["pixel-0"]


async def test_a_node_is_compared_with_its_own_pool(scene: Scene) -> None:
    differs = EnvironmentStatus(
        environment_hash="def", state=ENVIRONMENT_STATE_READY, versions={"dask": "2025.1.0", "numpy": "2.4.4"}
    )
    for name in CLASSES:
        scene.nodes.status_received(scene.node(name), NodeStatus(environment=differs))
    assert [name for name in CLASSES if scene.node(name).entry.state is State.INCOMPATIBLE] == ["pixel"]
    assert "dask 2025.1.0 (pool: 2026.8.0)" in scene.node("pixel").entry.reason
    assert scene.node("pixel").entry.hint.startswith("on the phone, `pkg upgrade`")


async def test_a_phone_without_the_pools_python_is_told_what_helps_on_a_phone(scene: Scene) -> None:
    pixel = scene.node("pixel")
    told = facts(MACHINE_CLASS_PHONE)
    told.pythons[:] = ["3.15"]
    scene.nodes.facts_received(pixel, told)
    scene.nodes.judge(pixel)
    assert pixel.entry.reason == "pool mobile needs Python 3.14; the node has 3.15"
    assert "pkg upgrade" in pixel.entry.hint
    assert "systemctl" not in pixel.entry.hint


async def test_while_mobile_is_off_a_phone_has_no_workers_and_says_why(off: Scene) -> None:
    pixel = off.node("pixel")
    assert (pixel.entry.state, pixel.entry.reason) == (State.INCOMPATIBLE, OFF)
    assert "enabled = true" in pixel.entry.hint
    assert not pixel.spec.workers
    assert not pixel.spec.HasField("pool")
    assert OFF in pixel.spec.reason
    assert off.node("tower").entry.state is State.READY
    with pytest.raises(MobileIsOff):
        off.pools.require(pixel.is_phone)


async def test_while_mobile_is_off_a_phone_can_be_drained_all_the_same(off: Scene) -> None:
    async with asyncio.TaskGroup() as tasks:
        drains = Drains(off.nodes, off.store, off.pools, off.events, tasks)
        await drains.start(off.node("pixel"), 60.0)
    assert off.node("pixel").entry.desired.value == "drained"
    assert off.main.retired == []


async def test_a_drained_phone_leaves_the_other_pool_alone(scene: Scene) -> None:
    scene.mobile.workers["pixel-0"] = worker("pixel-0")
    scene.mobile.gate.set()
    async with asyncio.TaskGroup() as tasks:
        drains = Drains(scene.nodes, scene.store, scene.pools, scene.events, tasks)
        await drains.start(scene.node("pixel"), 60.0)
    assert scene.mobile.retired == [["pixel-0"]]
    assert scene.main.retired == []
    assert set(scene.main.workers) == {"tower-0", "ann-0"}


async def test_results_of_a_phone_have_no_room_in_the_other_pool(scene: Scene) -> None:
    async with asyncio.TaskGroup() as tasks:
        drains = Drains(scene.nodes, scene.store, scene.pools, scene.events, tasks)
        drain = await drains.start(scene.node("pixel"), 60.0)
        assert drain is not None
        with pytest.raises(NowhereToMove):
            async for _ in drains.watch(drain):
                pass


async def test_each_scheduler_holds_its_own_workers_and_every_stranger(scene: Scene) -> None:
    holds = Holds(scene.nodes, scene.pools)
    scene.mobile.workers["tower-0"] = worker("tower-0")  # of a node of the other pool
    scene.main.workers["pixel-0"] = worker("pixel-0")
    for pool in (scene.main, scene.mobile):
        for listener in pool.listeners:
            listener()
    await asyncio.sleep(0.2)
    holds.close()
    assert scene.main.held == {"pixel-0"}
    assert scene.mobile.held == {"tower-0"}


async def test_workers_are_listed_with_the_pool_that_knows_them(scene: Scene) -> None:
    views = Views(scene.nodes, scene.pools)
    scene.main.workers["pixel-0"] = worker("pixel-0")
    for pool in (scene.main, scene.mobile):
        for listener in pool.listeners:
            listener()
    scene.nodes.status_received(scene.node("pixel"), NodeStatus(workers=[WorkerStatus(worker_name="pixel-0")]))
    listed = [(one.worker_name, one.node_id, one.pool_name) for one in views.workers()]
    assert listed == [
        ("ann-0", "ann", "main"), ("pixel-0", "pixel", "main"), ("pixel-0", "pixel", "mobile"),
        ("tower-0", "tower", "main"),
    ]  # fmt: skip
    assert [one.pool_name for one in views.workers(scene.mobile)] == ["mobile"]
    assert [one.worker_name for one in views.node(scene.node("pixel")).workers] == ["pixel-0"]


def test_an_unknown_pool_is_refused_with_the_names_of_those_that_there_are() -> None:
    main, mobile = PlayedPool(), PlayedPool(plan=MOBILE)
    both, one = Pools(main, mobile), Pools(main)
    assert both.find("") is main
    assert both.find("mobile") is mobile
    with pytest.raises(NoSuchPool, match="there is no pool 'gpu'; there is main and mobile"):
        both.find("gpu")
    with pytest.raises(NoSuchPool, match=r"there is no pool 'gpu'; there is main$"):
        one.find("gpu")
    with pytest.raises(MobileIsOff) as refused:
        one.find("mobile")
    assert "clusteraid.toml" in refused.value.advice


async def test_the_servers_own_agent_builds_what_its_schedulers_need(scene: Scene) -> None:
    scene.nodes.plan_environments(lambda node: scene.pools.further_environments() if node.node_id == "tower" else ())
    for name in CLASSES:
        scene.nodes.judge(scene.node(name))
    assert list(scene.spec("tower").further_environments) == [MOBILE.environment]
    assert not scene.spec("ann").further_environments
    main = EnvironmentStatus(environment_hash="abc", state=ENVIRONMENT_STATE_BUILDING)
    mobile = EnvironmentStatus(environment_hash="def", state=ENVIRONMENT_STATE_INCOMPATIBLE, reason="no Python 3.14")
    scene.pools.built_here(NodeStatus(environment=main, further_environments=[mobile]))
    assert (scene.main.told, scene.mobile.told) == (main, mobile)


def test_one_environment_for_both_pools_is_built_once() -> None:
    same = PlayedPool(plan=PoolPlan("mobile", PLAN.environment, ""))
    assert not Pools(PlayedPool(), same).further_environments()


async def test_a_machine_that_turns_out_to_be_a_phone_changes_its_pool(scene: Scene) -> None:
    ann = scene.nodes.find(NodeId("ann"))
    scene.nodes.facts_received(ann, facts(MACHINE_CLASS_PHONE))
    scene.nodes.judge(ann)
    assert ann.spec.pool.pool_name == "mobile"
    scene.nodes.facts_received(ann, facts(MACHINE_CLASS_UNSPECIFIED))
    scene.nodes.judge(ann)
    assert ann.spec.pool.pool_name == "main"
