"""What is set for classes and nodes: kept, checked, told to the nodes, and forgotten with them."""

import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clusterai.ids import ClusterId, NodeId
from clusterai.policy import BadPolicy, MachineClass
from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import MACHINE_CLASS_LAPTOP, MACHINE_CLASS_SERVER, MACHINE_CLASS_UNSPECIFIED, NodeFacts
from clusteraid.events import Events
from clusteraid.migrations import MIGRATIONS
from clusteraid.nodes import Counter, Nodes, NoSuchNode
from clusteraid.policies import Policies
from clusteraid.pools import Pools
from clusteraid.ports import CertificateRecord, Enrolment, Role
from clusteraid.store import Store
from clusteraid.store_access import AccessStore
from clusteraid.store_nodes import NodeStore
from clusteraid.store_policies import PolicyStore, Scope
from support.played_pool import PlayedPool

CLUSTER = ClusterId("c1")
LAPTOPS, ANN = Scope(machine=MachineClass.LAPTOP), Scope("ann")
MACHINES = {
    "ann": MACHINE_CLASS_LAPTOP, "bob": MACHINE_CLASS_LAPTOP, "tower": MACHINE_CLASS_SERVER,
    "old": MACHINE_CLASS_UNSPECIFIED,
}  # fmt: skip


@dataclass
class Scene:
    store: Store
    nodes: Nodes
    policies: Policies
    events: Events

    def spec(self, name: str) -> NodeSpec:
        return self.nodes.find(name).spec

    async def change(self, scope: Scope, *, reset: bool = False, **values: str) -> None:
        await self.policies.change(scope, values, reset=reset, by="ann")


async def started(store: Store) -> Scene:
    """What a daemon has after its start."""
    nodes_store = NodeStore(store, CLUSTER)
    events = Events(nodes_store)
    nodes = Nodes(nodes_store, events, Pools(PlayedPool()), Counter(1))
    policies = Policies(PolicyStore(store), nodes, events)
    await policies.load()
    await nodes.load()
    return Scene(store, nodes, policies, events)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with Store.open(tmp_path / "db") as store:
        access = AccessStore(store, CLUSTER)
        for number, (name, machine) in enumerate(MACHINES.items()):
            record = CertificateRecord(str(number), f"spiffe://c1/node/{name}", 5e9)
            facts = NodeFacts(pythons=["3.11"], machine_class=machine).SerializeToString()
            await access.enroll(Enrolment(name, Role.NODE, record, time.time(), facts=facts))
        yield await started(store)


async def test_a_node_is_told_the_defaults_of_its_class(scene: Scene) -> None:
    assert scene.spec("ann").policy.charging_only
    assert scene.spec("ann").policy.battery_start_percent == 80
    assert not scene.spec("tower").policy.charging_only
    assert not scene.spec("old").HasField("policy")


async def test_a_node_s_own_values_count_before_those_of_its_class(scene: Scene) -> None:
    await scene.change(LAPTOPS, battery_start_percent="90", quiet_hours="22:00-07:00")
    await scene.change(ANN, battery_start_percent="70")
    assert scene.spec("ann").policy.battery_start_percent == 70
    assert scene.spec("ann").policy.quiet_hours == "22:00-07:00"
    assert scene.spec("bob").policy.battery_start_percent == 90
    assert not scene.spec("tower").policy.quiet_hours


async def test_what_was_set_outlives_the_daemon(scene: Scene) -> None:
    await scene.change(LAPTOPS, dwell_seconds="120")
    await scene.change(ANN, charging_only="no")
    again = await started(scene.store)
    assert again.spec("ann").policy.dwell_seconds == 120
    assert not again.spec("ann").policy.charging_only
    assert again.spec("bob").policy.charging_only


async def test_a_reset_forgets_what_was_set_here_and_nothing_else(scene: Scene) -> None:
    await scene.change(LAPTOPS, dwell_seconds="120")
    await scene.change(ANN, dwell_seconds="10", idle_minutes="5")
    await scene.change(ANN, reset=True, idle_minutes="7")
    assert (scene.spec("ann").policy.dwell_seconds, scene.spec("ann").policy.idle_minutes) == (120, 7)
    await scene.change(ANN, reset=True)
    assert (await started(scene.store)).spec("ann").policy.idle_minutes == 0
    kinds = [event.message for event in scene.events.since(0, 100) if event.kind == "policy-changed"]
    assert kinds[0] == "ann set the policy of all of class laptop: dwell_seconds = 120"
    assert kinds[-1] == "ann set the policy of ann: everything back to the defaults"


@pytest.mark.parametrize(
    ("scope", "values", "said"),
    [
        (ANN, {"charging": "yes"}, "there is no such setting"),
        (ANN, {"dwell_seconds": "10", "battery_start_percent": "x"}, "must be a whole number from 0 to 100"),
        (ANN, {"battery_start_percent": "60"}, "battery_stop_percent = '60': must be below battery_start_percent"),
        (LAPTOPS, {"battery_start_percent": "65"}, "(the node bob has values of its own)"),
    ],
)
async def test_what_may_not_be_changes_nothing(scene: Scene, scope: Scope, values: dict[str, str], said: str) -> None:
    await scene.change(Scope("bob"), battery_stop_percent="75")
    before = {name: scene.spec(name).generation for name in MACHINES}
    with pytest.raises(BadPolicy) as refused:
        await scene.policies.change(scope, values, reset=False, by="ann")
    assert said in str(refused.value)
    assert {name: scene.spec(name).generation for name in MACHINES} == before
    assert (await started(scene.store)).spec("ann").policy == scene.spec("ann").policy


async def test_a_node_that_is_not_there_has_no_policy(scene: Scene) -> None:
    with pytest.raises(NoSuchNode):
        await scene.change(Scope("carl"), idle_minutes="5")
    with pytest.raises(NoSuchNode):
        scene.policies.of_node("carl")


async def test_a_policy_goes_with_its_node(scene: Scene) -> None:
    await scene.change(ANN, idle_minutes="5")
    await NodeStore(scene.store, CLUSTER).remove_node(NodeId("ann"))
    scene.nodes.remove(scene.nodes.find("ann"))
    assert await PolicyStore(scene.store).load() == {}
    assert scene.policies._of_node("ann") == {}


async def test_a_store_of_the_version_before_has_policies_after_the_upgrade(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "db") as connection:
        for number, script in enumerate(MIGRATIONS[:2], start=1):
            connection.executescript(f"{script}; PRAGMA user_version = {number};")
        facts = NodeFacts(pythons=["3.11"], machine_class=MACHINE_CLASS_LAPTOP).SerializeToString()
        connection.execute("INSERT INTO node (node_id, created_at, facts) VALUES ('ann', 1, ?)", (facts,))
    connection.close()
    async with Store.open(tmp_path / "db") as store:
        scene = await started(store)
        await scene.change(ANN, idle_minutes="5")
    async with Store.open(tmp_path / "db") as store:
        assert (await started(store)).spec("ann").policy.idle_minutes == 5


async def test_a_key_or_class_of_a_newer_version_does_no_harm(scene: Scene) -> None:
    rows = [("ann", "", "moon_phase", "full"), ("", "watch", "idle_minutes", "5"), ("ann", "", "idle_minutes", "9")]
    await scene.store.write(lambda db: db.executemany("INSERT INTO policy VALUES (?, ?, ?, ?)", rows))
    assert (await started(scene.store)).spec("ann").policy.idle_minutes == 9
