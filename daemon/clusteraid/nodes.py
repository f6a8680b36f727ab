"""The cluster's nodes in memory: their states, what they last said, and what they shall run."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from clusterai.errors import ClusterAIError, Status
from clusterai.ids import NodeId
from clusterai.v1.node_pb2 import NodeSpec, NodeStatus
from clusterai.v1.types_pb2 import (
    POLICY_STATE_RESTING,
    EnvironmentSpec,
    NodeFacts,
    OllamaSpec,
    PolicySettings,
    PoolSpec,
    Sample,
)
from clusteraid.planner import is_phone, judge, plan_workers, still_running
from clusteraid.pools import MobileIsOff, Pools
from clusteraid.ports import Enrolment, EventLog, Role
from clusteraid.registry import (
    Desired,
    Event,
    Judged,
    Link,
    Misfit,
    NodeEntry,
    PolicySaid,
    Rest,
    SessionOpened,
    State,
    next_entry,
)
from clusteraid.store import StoreUnavailable
from clusteraid.store_nodes import NodeRecord, NodeStore
from clusteraid.text import printable

log = logging.getLogger(__name__)
NOTHING_MADE: Mapping[bool, bytes] = MappingProxyType({})  # of a node's `wire`
_ERA_BITS = 24
_SAVE_FACTS_SECONDS = 5.0
_REASON_LIMIT = 300


class NoSuchNode(ClusterAIError):
    code, status = "no-such-node", Status.NOT_FOUND
    message = "there is no node {node_id}"
    hint = "`clusteractl node list` shows all nodes"


class SpecChannel(Protocol):
    """Where a node hears what it shall run."""

    def send_spec(self, spec: NodeSpec) -> None:
        """Tell it."""


@dataclass(eq=False, slots=True)
class Node:
    """One node. `entry` is decided by the registry; the rest is what was heard. `heard_at` is monotonic."""

    entry: NodeEntry
    created_at: float
    facts: NodeFacts
    certificate_not_after: float
    since: float
    heard_at: float
    drain_deadline: float = 0.0
    admitted_by: str = ""
    heard_once: bool = False
    status: NodeStatus = field(default_factory=NodeStatus)
    sample: Sample | None = None
    spec: NodeSpec = field(default_factory=NodeSpec)
    session: SpecChannel | None = None
    address: str = ""
    clock_skew: float = 0.0
    wire: Mapping[bool, bytes] = field(init=False)  # of the basic view or not: what heartbeats do not change, as listed
    is_phone: bool = field(init=False)  # asked for thousands of nodes at a time

    def __post_init__(self) -> None:
        self.take_facts(self.facts)

    def take_facts(self, facts: NodeFacts) -> None:
        """Note what the node says about itself."""
        self.facts, self.is_phone, self.wire = facts, is_phone(facts), NOTHING_MADE

    @property
    def node_id(self) -> NodeId:
        """Its name."""
        return self.entry.node_id


class Counter:
    """Numbers that grow, over restarts of the daemon too: an era for each start, and a count within it."""

    def __init__(self, era: int) -> None:
        self._last = era << _ERA_BITS

    def next(self) -> int:
        """Return the next number."""
        self._last += 1
        return self._last


class Nodes:
    """All nodes. Every change of an entry goes through `apply`."""

    def __init__(self, store: NodeStore, events: EventLog, pools: Pools, numbers: Counter) -> None:
        self._store, self._events, self._pools, self._numbers = store, events, pools, numbers
        self._nodes: dict[NodeId, Node] = {}
        self._listeners: list[Callable[[Node], None]] = []
        self._report_listeners: list[Callable[[Node], None]] = []
        self._plan_models: Callable[[Node], OllamaSpec | None] = lambda _: None
        self._plan_policy: Callable[[Node], PolicySettings | None] = lambda _: None
        self._plan_environments: Callable[[Node], Iterable[EnvironmentSpec]] = lambda _: ()
        self._unsaved_facts: dict[NodeId, bytes] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    async def load(self) -> None:
        """Read the nodes of the store; once at start. Each has one full grace time to come back."""
        for record in await self._store.list_nodes():
            self._add(record)

    def find(self, node_id: str) -> Node:
        """Return the node, or raise NoSuchNode."""
        node = self._nodes.get(NodeId(node_id))
        if node is None:
            raise NoSuchNode(node_id=repr(node_id[:64]))
        return node

    def on_changed(self, listener: Callable[[Node], None]) -> None:
        """Call the listener after each change of a node's entry, and when a node comes or goes."""
        self._listeners.append(listener)

    def on_reported(self, listener: Callable[[Node], None]) -> None:
        """Call the listener with each status of a node, before anything follows from it."""
        self._report_listeners.append(listener)

    def plan_models(self, planned: Callable[[Node], OllamaSpec | None]) -> None:
        """Have this say what a node's Ollama shall have; None leaves its models alone."""
        self._plan_models = planned

    def plan_policy(self, planned: Callable[[Node], PolicySettings | None]) -> None:
        """Have this say when a node works and when it rests; None leaves it to the node."""
        self._plan_policy = planned

    def plan_environments(self, planned: Callable[[Node], Iterable[EnvironmentSpec]]) -> None:
        """Have this say what a node builds beside the environment of its pool."""
        self._plan_environments = planned

    def has(self, node: Node) -> bool:
        """Whether the node is in the cluster still."""
        return self._nodes.get(node.node_id) is node

    def node_enrolled(self, enrolment: Enrolment) -> None:
        """Listen to enrolments: a node that joins is there at once; one that joins again keeps its record."""
        if enrolment.role is not Role.NODE:
            return
        known = self._nodes.get(NodeId(enrolment.name))
        if known is not None:
            known.certificate_not_after, known.wire = enrolment.certificate.not_after, NOTHING_MADE
            return
        record = NodeRecord(
            NodeId(enrolment.name), enrolment.at, enrolment.facts,
            certificate_not_after=enrolment.certificate.not_after,
        )
        self._changed(self._add(record))
        self._events.note("node-joined", enrolment.name, f"{enrolment.name} joined the cluster")

    def certificate_renewed(self, node_id: str, not_after: float) -> None:
        """Note the end of a node's newest certificate."""
        node = self.find(node_id)
        node.certificate_not_after, node.wire = not_after, NOTHING_MADE

    def remove(self, node: Node) -> None:
        """Forget the node; the store has done so already. What its session still says concerns nobody."""
        node.session = None
        self._nodes.pop(node.node_id, None)
        self._unsaved_facts.pop(node.node_id, None)
        self._events.note("node-removed", node.node_id, f"{node.node_id} was removed from the cluster")
        self._changed(node)

    def apply(self, node: Node, event: Event) -> None:
        """Let the registry decide, and do what follows: since when, the event, the spec, the listeners."""
        before, node.entry = node.entry, next_entry(node.entry, event)
        self._follow(node, before)

    def _follow(self, node: Node, before: NodeEntry) -> None:
        after = node.entry
        if after is before:
            return
        node.wire = NOTHING_MADE
        if after.state is not before.state:
            node.since = time.time()
            sentence = f"{node.node_id} is {after.state.value}" + (f": {after.reason}" if after.reason else "")
            self._events.note(f"node-{after.state.value}", node.node_id, sentence)
        if _wanted(after) != _wanted(before):  # a node that comes or goes runs the same
            self.update_spec(node)
        self._changed(node)

    def facts_received(self, node: Node, facts: NodeFacts) -> None:
        """Take over what the node says about itself; on disk it is written behind."""
        node.clock_skew = facts.clock_unix_seconds - time.time() if facts.clock_unix_seconds else 0.0
        node.wire = NOTHING_MADE
        facts.ClearField("clock_unix_seconds")
        if facts != node.facts:
            self._unsaved_facts[node.node_id] = facts.SerializeToString(deterministic=True)
            node.take_facts(facts)

    def status_received(self, node: Node, status: NodeStatus, *opened: SessionOpened) -> None:
        """Take over what the node observed, and compare it with its pool; with its session's begin it is one change."""
        node.status, node.wire = status, NOTHING_MADE
        before = node.entry
        events: tuple[Event, ...] = (*opened, _said(status), self._judged(node))
        for event in events:
            node.entry = next_entry(node.entry, event)
        for listener in self._report_listeners:
            listener(node)
        self._follow(node, before)
        self.update_spec(node)

    def judge(self, node: Node) -> None:
        """Compare the node with what its pool needs; its spec follows."""
        self.apply(node, self._judged(node))
        self.update_spec(node)

    def _judged(self, node: Node) -> Judged:
        return Judged(_misfit(node, self._pools.spec_for(node.is_phone)))

    def update_spec(self, node: Node) -> None:
        """Work out what the node shall run; when that changed, give it a new generation and tell the node."""
        spec = self._planned(node)
        spec.generation = node.spec.generation
        if spec == node.spec and spec.generation:
            return
        spec.generation = self._numbers.next()
        node.spec = spec
        if node.session is not None:
            node.session.send_spec(spec)

    def counts(self) -> dict[State, int]:
        """Return how many nodes are in each state that occurs."""
        counts: dict[State, int] = {}
        for node in self:
            counts[node.entry.state] = counts.get(node.entry.state, 0) + 1
        return counts

    async def keep_saving_facts(self) -> None:
        """Write changed facts to the store, for ever; while it cannot be written they wait."""
        while True:
            await asyncio.sleep(_SAVE_FACTS_SECONDS)
            await self.save_facts()

    async def save_facts(self) -> None:
        """Write changed facts to the store."""
        facts, self._unsaved_facts = self._unsaved_facts, {}
        if not facts:
            return
        try:
            await self._store.save_facts(facts)
        except StoreUnavailable:
            self._unsaved_facts = facts | self._unsaved_facts

    def _planned(self, node: Node) -> NodeSpec:
        entry, pool = node.entry, self._pools.spec_for(node.is_phone)
        spec = NodeSpec(build_environment=entry.misfit is None)
        if entry.misfit is not None:
            spec.reason = f"incompatible: {entry.misfit.reason}"
        elif entry.desired is Desired.DRAINED:
            spec.reason = "drained"
        elif entry.rest is Rest.DONE:
            spec.reason = "resting"
        if entry.misfit is None and pool is not None:
            spec.pool.CopyFrom(pool)
        spec.further_environments.extend(self._plan_environments(node))
        if entry.may_run_workers:
            workers = plan_workers(node.node_id, node.facts)
            spec.workers.extend(workers if entry.rest is Rest.NONE else still_running(workers, node.status.workers))
        policy = self._plan_policy(node)
        if policy is not None:
            spec.policy.CopyFrom(policy)
        models = self._plan_models(node)
        if models is not None:
            spec.ollama.CopyFrom(models)
        return spec

    def _add(self, record: NodeRecord) -> Node:
        now = asyncio.get_running_loop().time()
        entry = NodeEntry(record.node_id, Desired(record.desired), Link.BROKEN)
        node = Node(
            entry, record.created_at, NodeFacts.FromString(record.facts), record.certificate_not_after,
            since=time.time(), heard_at=now, drain_deadline=record.drain_deadline, admitted_by=record.admitted_by,
        )
        self._nodes[record.node_id] = node
        self.judge(node)
        return node

    def _changed(self, node: Node) -> None:
        for listener in self._listeners:
            listener(node)


def _wanted(entry: NodeEntry) -> tuple[object, ...]:
    """What of an entry the node's spec follows."""
    return entry.desired, entry.misfit, entry.rest


def _misfit(node: Node, pool: PoolSpec | None) -> Misfit | None:
    """Why the node cannot work in its pool."""
    if pool is None:
        return Misfit(MobileIsOff.message, MobileIsOff.hint)
    return judge(node.facts, pool.environment, node.status.environment, pool.pool_name)


def _said(status: NodeStatus) -> PolicySaid:
    """What the node's own policy says; one that knows no policy works."""
    policy = status.policy
    return PolicySaid(policy.state == POLICY_STATE_RESTING, printable(policy.reason, _REASON_LIMIT))
