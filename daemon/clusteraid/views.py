"""Nodes and workers in the form in which they are listed; what the agent and the scheduler say of a worker, as one."""

import asyncio
import struct
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from operator import attrgetter

from clusterai.v1.node_admin_pb2 import NODE_STATE_PENDING, ListNodesResponse, Node
from clusterai.v1.types_pb2 import (
    WORKER_STATE_FAILED,
    WORKER_STATE_HELD,
    WORKER_STATE_REGISTERED,
    WORKER_STATE_RUNNING,
    GpuFacts,
    NodeFacts,
    Sample,
    WorkerStatus,
)
from clusteraid.approvals import Waiting
from clusteraid.nodes import NOTHING_MADE, Nodes
from clusteraid.nodes import Node as KnownNode
from clusteraid.planner import owner_of
from clusteraid.pool_port import PoolPort, RegisteredWorker
from clusteraid.pools import Pools

_REGISTER_SECONDS = 20.0  # a worker that runs longer than this and is not registered has failed
_UNREGISTERED = (
    "its process runs, but the scheduler does not know it: see `clusteractl logs --node {node} --unit {unit}`"
)
# Fields on the wire: ListNodesResponse.nodes, Node.last_heard_unix_seconds, Node.sample, Sample.load_1min.
_NODES_TAG, _LAST_HEARD_TAG, _SAMPLE_TAG, _LOAD_TAG = b"\x0a", 9 << 3 | 1, b"\x32", 3 << 3 | 5
_LAST_HEARD, _BOTH = struct.Struct("<Bd"), struct.Struct("<BdcBBf")
_NAME = attrgetter("node_id")
_ByNode = Mapping[str, tuple[RegisteredWorker, ...]]


class Views:
    """Makes wire messages of nodes; what heartbeats do not change is kept from one listing to the next."""

    def __init__(self, nodes: Nodes, pools: Pools) -> None:
        self._nodes, self._pools = nodes, pools
        self._registered: dict[str, _ByNode] = {}  # by the name of the pool
        for pool in pools:
            pool.on_changed(partial(self._pool_changed, pool))

    def nodes(self, waiting: Iterable[Waiting], *, with_samples: bool, basic: bool = False) -> bytes:
        """Return a serialised ListNodesResponse: all nodes by name, then those that wait for approval.

        It is put together from each node's own bytes: thousands of nodes are listed while heartbeats wait. `basic`
        leaves of each node what a table shows, NODE_VIEW_BASIC.
        """
        offset = time.time() - asyncio.get_running_loop().time()
        parts: list[bytes] = []
        for node in sorted(self._nodes, key=_NAME):
            kept = node.wire.get(basic) or self._made_bytes(node, basic=basic)
            sample = node.sample if with_samples else None
            if basic and sample is not None and node.heard_once:  # nearly all: at once
                load = sample.load_1min
                heard = _BOTH.pack(_LAST_HEARD_TAG, node.heard_at + offset, _SAMPLE_TAG, 5, _LOAD_TAG, load)
            else:
                heard = _LAST_HEARD.pack(_LAST_HEARD_TAG, node.heard_at + offset) if node.heard_once else b""
                if sample is not None:
                    taken = (Sample(load_1min=sample.load_1min) if basic else sample).SerializeToString()
                    heard += b"".join((_SAMPLE_TAG, _varint(len(taken)), taken))
            parts += (_head(len(kept) + len(heard)), kept, heard)
        pending_nodes = ListNodesResponse(nodes=[pending(entry) for entry in waiting])
        return b"".join((*parts, pending_nodes.SerializeToString()))

    def node(self, node: KnownNode) -> Node:
        """Return one node with everything that is known of it."""
        wire = self._made(node)
        if node.heard_once:
            wire.last_heard_unix_seconds = time.time() - asyncio.get_running_loop().time() + node.heard_at
        if node.sample is not None:
            wire.sample.CopyFrom(node.sample)
        return wire

    def workers(self, only: PoolPort | None = None) -> list[WorkerStatus]:
        """Return all workers, or those of one pool: those that nodes run, and those that only a scheduler knows."""
        listed = [worker for node in self._nodes for worker in self._workers(node)]
        known = {(worker.pool_name, worker.worker_name) for worker in listed}
        for pool in self._pools:
            name = pool.plan.name
            strangers = (worker for worker in pool.workers.values() if (name, worker.name) not in known)
            listed.extend(_registered_only(worker, name) for worker in strangers)
        wanted = listed if only is None else [one for one in listed if one.pool_name == only.plan.name]
        return sorted(wanted, key=lambda worker: (worker.node_id, worker.worker_name, worker.pool_name))

    def _made_bytes(self, node: KnownNode, *, basic: bool) -> bytes:
        """Make the node's bytes, less what changes with each heartbeat, and keep them where that alone changes."""
        made = self._basic(node) if basic else self._made(node)
        kept: bytes = made.SerializeToString()
        if all(worker.state != WORKER_STATE_RUNNING for worker in made.workers):  # that state ends with time
            node.wire = {**node.wire, basic: kept}
        return kept

    def _basic(self, node: KnownNode) -> Node:
        entry, facts = node.entry, node.facts
        shown = NodeFacts(
            cpu_count=facts.cpu_count, memory_total_bytes=facts.memory_total_bytes,
            gpus=[GpuFacts(name=gpu.name) for gpu in facts.gpus],
        )  # fmt: skip
        return Node(
            node_id=node.node_id, state=f"NODE_STATE_{entry.state.name}", reason=entry.reason, hint=entry.hint,
            facts=shown, pool_name=node.spec.pool.pool_name,
            workers=[WorkerStatus(worker_name=one.worker_name, state=one.state) for one in self._workers(node)],
        )  # fmt: skip

    def _made(self, node: KnownNode) -> Node:
        entry, pool = node.entry, self._pools.of(node.is_phone)
        wire = Node(
            node_id=node.node_id, state=f"NODE_STATE_{entry.state.name}", reason=entry.reason, hint=entry.hint,
            facts=node.facts, since_unix_seconds=node.since, address=node.address, clock_skew_seconds=node.clock_skew,
            certificate_expires_unix_seconds=node.certificate_not_after, pool_name=node.spec.pool.pool_name,
            workers=self._workers(node),
        )
        environment = node.status.environment
        if pool is not None and environment.environment_hash == pool.plan.environment.environment_hash:
            wire.environment.CopyFrom(environment)
        return wire

    def _workers(self, node: KnownNode) -> list[WorkerStatus]:
        pool = self._pools.of(node.is_phone)
        name = pool.plan.name if pool is not None else ""
        registered = {worker.name: worker for worker in self._registered.get(name, {}).get(node.node_id, ())}
        held = not node.entry.is_counted_on
        now = time.time() + node.clock_skew  # by the node's clock, as what it reports
        workers = [merged(node.node_id, worker, registered, now, held=held) for worker in node.status.workers]
        for worker in workers:
            worker.pool_name = name
        reported = {worker.worker_name for worker in workers}
        strangers = (worker for worker in registered.values() if worker.name not in reported)
        return workers + [_registered_only(worker, name) for worker in strangers]

    def _pool_changed(self, pool: PoolPort) -> None:
        """Find out whose workers changed; only those nodes' messages are made anew."""
        before = self._registered.get(pool.plan.name, {})
        grouped: dict[str, tuple[RegisteredWorker, ...]] = {}
        for worker in pool.workers.values():
            owner = owner_of(worker.name)
            grouped[owner] = (*grouped.get(owner, ()), worker)
        for node in self._nodes:
            if grouped.get(node.node_id) != before.get(node.node_id):
                node.wire = NOTHING_MADE
        self._registered[pool.plan.name] = grouped


def pending(entry: Waiting) -> Node:
    """Return a machine that waits for approval, as a node."""
    facts = NodeFacts.FromString(entry.admission.facts)
    return Node(
        node_id=entry.name, state=NODE_STATE_PENDING, reason="waits for approval", facts=facts,
        hint=f"compare the code with what the node shows, then `clusteractl node approve {entry.name} --code CODE`",
        since_unix_seconds=entry.since, address=entry.admission.address, approval_code=entry.code,
    )


def merged(
    node_id: str, reported: WorkerStatus, registered: Mapping[str, RegisteredWorker], now: float, *, held: bool
) -> WorkerStatus:
    """Return what the node reports of a worker, completed with what the scheduler knows of it."""
    worker = WorkerStatus()
    worker.CopyFrom(reported)
    worker.node_id = node_id
    known = registered.get(worker.worker_name)
    if known is not None:
        _add_registered(worker, known)
        if held:
            worker.state = WORKER_STATE_HELD
    elif worker.state == WORKER_STATE_RUNNING and now - worker.since_unix_seconds > _REGISTER_SECONDS:
        worker.state = WORKER_STATE_FAILED
        unit = f"clusterai-worker@{worker.worker_name}"
        worker.reason = worker.reason or _UNREGISTERED.format(node=node_id, unit=unit)
    return worker


def _registered_only(known: RegisteredWorker, pool: str) -> WorkerStatus:
    worker = WorkerStatus(worker_name=known.name, node_id=owner_of(known.name), pool_name=pool)
    _add_registered(worker, known)
    return worker


def _add_registered(worker: WorkerStatus, known: RegisteredWorker) -> None:
    if worker.state != WORKER_STATE_RUNNING:
        worker.reason = ""
    worker.state = WORKER_STATE_REGISTERED
    worker.thread_count, worker.memory_limit_bytes = known.threads, known.memory_limit
    worker.running_task_count, worker.stored_bytes = known.processing, known.nbytes
    worker.dask_address = known.address


@lru_cache(maxsize=4096)
def _head(size: int) -> bytes:
    """What stands before a node of that many bytes."""
    return _NODES_TAG + _varint(size)


def _varint(number: int) -> bytes:
    """Encode a length as protobuf does."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
