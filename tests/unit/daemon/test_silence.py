"""Who is silent: decided on the monotonic clock, with a grace time after starts, stalls and in storms."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterai.ids import ClusterId, NodeId
from clusterai.v1 import types_pb2 as types
from clusterai.v1.node_pb2 import Hello, SessionRequest, SessionResponse
from clusterai.v1.types_pb2 import MachineClass, NodeFacts
from clusteraid.config import SessionConfig
from clusteraid.events import Events
from clusteraid.nodes import Counter, Nodes
from clusteraid.pools import Pools
from clusteraid.ports import CertificateRecord, Enrolment, Role
from clusteraid.registry import Link, State
from clusteraid.sessions import Session, Sessions
from clusteraid.store import Store
from clusteraid.store_access import AccessStore
from clusteraid.store_nodes import NodeStore
from support.played_pool import PlayedPool
from support.waiting import until


class Scene:
    """Two known nodes, nobody connected, and a clock that the test moves."""

    def __init__(self, nodes: Nodes, sessions: Sessions) -> None:
        self.nodes, self.sessions = nodes, sessions
        self.start = asyncio.get_running_loop().time()
        self.opened: list[Session] = []
        self.sent: list[SessionResponse] = []

    async def open(self, name: str, machine_class: MachineClass = types.MACHINE_CLASS_UNSPECIFIED) -> Session:
        """Open a session in a task of its own, as a call has."""
        facts = NodeFacts(machine_class=machine_class)

        async def write(message: SessionResponse) -> None:
            self.sent.append(message)

        async def call() -> Session:
            return self.sessions.open(name, "192.0.2.1", Hello(facts=facts), write)

        self.opened.append(await asyncio.create_task(call()))
        return self.opened[-1]

    def enrol(self, count: int) -> None:
        """Let there be so many nodes more."""
        for number in range(count):
            name = f"n{number}"
            record = CertificateRecord(f"c{number}", f"spiffe://c1/node/{name}", 5e9)
            self.nodes.node_enrolled(Enrolment(name, Role.NODE, record, 1.0))

    def tick(self, seconds: float, since_last: float = 0.25) -> dict[str, State]:
        """Let the clock be so long after the start; return the states."""
        self.sessions.tick(self.start + seconds, since_last)
        return {node.node_id: node.entry.state for node in self.nodes}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with Store.open(tmp_path / "db") as store:
        access, nodes_store = AccessStore(store, ClusterId("c1")), NodeStore(store, ClusterId("c1"))
        for number, name in enumerate(("alpha", "beta")):
            record = CertificateRecord(str(number), f"spiffe://c1/node/{name}", 5e9)
            await access.enroll(Enrolment(name, Role.NODE, record, 1.0))
        events = Events(nodes_store)
        nodes = Nodes(nodes_store, events, Pools(PlayedPool()), Counter(1))
        await nodes.load()
        config = SessionConfig(heartbeats_per_second=1)
        built = Scene(nodes, Sessions(nodes, events, config, lambda: ("h:1",), Counter(1)))
        yield built
        for session in built.opened:
            await built.sessions.close(session)


async def test_a_node_that_comes_back_is_one_change_and_gets_its_spec_with_the_welcome(scene: Scene) -> None:
    reported, changed = [], []
    scene.nodes.on_reported(lambda node: reported.append(node.entry.link))
    scene.nodes.on_changed(lambda node: changed.append(node.entry.state))
    session = await scene.open("alpha")
    assert (reported, changed) == ([Link.UP], [State.INCOMPATIBLE])  # it tells of no Python
    await until(lambda: scene.sent)
    (answer,) = scene.sent
    assert answer.welcome.spec == session.node.spec
    assert answer.welcome.spec.reason.startswith("incompatible")


async def test_known_nodes_have_one_full_grace_time_after_a_start(scene: Scene) -> None:
    assert set(scene.tick(11.0).values()) == {State.SUSPECT}
    assert set(scene.tick(12.0).values()) == {State.OFFLINE}


async def test_a_node_is_offline_before_the_time_is_over(scene: Scene) -> None:
    await scene.open("alpha")
    assert scene.tick(11.0)["alpha"] is not State.OFFLINE
    assert scene.tick(11.9)["alpha"] is State.OFFLINE


async def test_after_a_stall_silence_counts_anew(scene: Scene) -> None:
    await scene.open("alpha")
    assert State.OFFLINE not in scene.tick(100.0, since_last=90.0).values()
    assert State.OFFLINE not in scene.tick(111.0).values()
    assert scene.tick(112.0)["alpha"] is State.OFFLINE


async def test_after_a_start_many_nodes_have_the_time_that_their_return_takes(scene: Scene) -> None:
    scene.enrol(498)
    await scene.open("alpha")
    states = scene.tick(16.0)
    assert states["alpha"] is State.OFFLINE  # was back, and fell silent
    assert states["beta"] is State.SUSPECT
    assert scene.tick(17.0)["beta"] is State.OFFLINE


async def test_messages_of_a_replaced_session_change_nothing(scene: Scene) -> None:
    old = await scene.open("alpha")
    await scene.open("alpha")
    heard = scene.nodes.find("alpha").heard_at
    scene.sessions.received(old, SessionRequest())
    assert scene.nodes.find("alpha").heard_at == heard


async def test_many_nodes_are_heard_less_often_and_go_offline_later(scene: Scene) -> None:
    scene.sessions.config = SessionConfig(heartbeat_seconds=0.5, offline_seconds=1, heartbeats_per_second=1)
    await scene.open("alpha")
    scene.tick(0.1)
    assert scene.sessions.offline_seconds(False) == 2.4
    await asyncio.sleep(0)
    assert scene.sent[-1].heartbeat_interval.heartbeat_interval_seconds == 1.0
    assert scene.nodes.find(NodeId("alpha")).entry.state is not State.OFFLINE


@pytest.mark.parametrize(("others", "told"), [(498, [5.0, 1.0]), (0, [])])
async def test_while_many_come_back_the_others_are_heard_as_seldom_as_their_grace_time_allows(
    scene: Scene, others: int, told: list[float]
) -> None:
    scene.sessions.config = SessionConfig(heartbeat_seconds=1)
    scene.sessions.tick(scene.start + 60, 0.25)  # no start any more: all are told the interval of this configuration
    scene.enrol(others)
    await scene.open("alpha")
    for seconds in (0.1, 4.9, 5.1, 5.4):  # 500 come back within 5 s
        states = scene.tick(seconds)
        assert scene.sessions.offline_seconds(False) == 12.0
        assert states["alpha"] is State.INCOMPATIBLE  # it tells of no Python
        await asyncio.sleep(0)
    changes = [sent.heartbeat_interval for sent in scene.sent if sent.HasField("heartbeat_interval")]
    assert [change.heartbeat_interval_seconds for change in changes] == told


async def test_when_all_are_back_they_are_heard_as_configured_at_once(scene: Scene) -> None:
    scene.enrol(100)
    scene.sessions.config = SessionConfig(heartbeat_seconds=1)
    for node in tuple(scene.nodes):
        await scene.open(node.node_id)
    scene.tick(0.3)
    assert scene.sessions.interval_seconds(False) == 1.0


async def test_a_phone_is_heard_seldom_and_may_be_silent_longer(scene: Scene) -> None:
    await scene.open("alpha", types.MACHINE_CLASS_PHONE)
    await scene.open("beta")
    await asyncio.sleep(0)
    intervals = [sent.welcome.heartbeat_interval_seconds for sent in scene.sent if sent.HasField("welcome")]
    assert intervals == [15.0, 5.0]
    states = scene.tick(30.0)
    assert states["alpha"] is not State.OFFLINE
    assert states["beta"] is State.OFFLINE
    assert scene.tick(36.0)["alpha"] is State.OFFLINE


async def test_a_new_interval_of_phones_is_told_before_their_silence_is_judged_by_it(scene: Scene) -> None:
    await scene.open("alpha", types.MACHINE_CLASS_PHONE)
    scene.sessions.reconfigure(SessionConfig(phone_heartbeat_seconds=60.0))
    scene.tick(0.1)
    await asyncio.sleep(0)
    assert scene.sent[-1].heartbeat_interval.heartbeat_interval_seconds == 60.0
    assert scene.tick(100.0)["alpha"] is not State.OFFLINE


async def test_once_all_were_back_one_that_leaves_changes_nobody_s_interval(scene: Scene) -> None:
    """Each change lets every node choose a new moment for its next heartbeat; without an end some would send none."""
    scene.sessions.config = SessionConfig(heartbeat_seconds=1)
    scene.sessions.tick(scene.start + 60, 0.25)
    scene.enrol(100)
    for node in tuple(scene.nodes):
        await scene.open(node.node_id)
    scene.tick(0.5)
    await asyncio.sleep(0)
    scene.sent.clear()
    await scene.sessions.close(scene.opened[0])
    scene.tick(0.75)
    await asyncio.sleep(0)
    assert not scene.sent
