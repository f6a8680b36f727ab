"""The daemon under 2,000 agents at one heartbeat a second, against a bare stream server in the same run."""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Costs, Figure, Machine, median, quantile
from bench.processes import NEWEST, Fleet, Place, Program, split_processors
from bench.servers import Daemon, bare_server
from clusterai.v1.event_pb2 import WatchEventsRequest
from clusterai.v1.event_pb2_grpc import EventServiceStub
from clusterai.v1.node_admin_pb2 import (
    NODE_STATE_READY,
    NODE_VIEW_BASIC,
    NODE_VIEW_FULL,
    ListNodesRequest,
    NodeView,
)
from clusterai.v1.node_admin_pb2_grpc import NodeAdminServiceStub
from load.identities import enroll_all, save
from support.ports import free_port

ALL = frozenset(os.sched_getaffinity(0))
AGENTS, WINDOW_SECONDS, SETTLE_SECONDS, ROUNDS, LIST_CALLS = 2000, 10.0, 5.0, 3, 500
GRACE_SECONDS, _CONNECT_SECONDS = 3.0, 120.0


@dataclass(frozen=True)
class Load:
    """What a server cost while the fleet talked to it."""

    cpu_microseconds_per_beat: float
    bytes_per_agent: float
    written_bytes: int
    beats_per_second: float


@dataclass(frozen=True)
class Return:
    """How the fleet came back to a restarted server, and who used the processors for how many seconds meanwhile."""

    seconds: float
    cpu_seconds: float
    fleet_seconds: float
    other_seconds: float
    failures: int


@dataclass(frozen=True)
class Baseline:
    """The bare server's figures."""

    loads: list[Load]
    back: Return


def measure(agents: int = AGENTS) -> Iterator[Figure]:
    """Yield the figures on the distribution's gRPC."""
    yield from _measure(Place().python, agents)


def measure_newest(agents: int = AGENTS) -> Iterator[Figure]:
    """Yield the figures on the newest releases, from the environment that `scripts/test --only newest` makes."""
    if not NEWEST.exists():
        raise SystemExit("there is no environment with the newest releases\n  make it with: scripts/test --only newest")
    yield from _measure(NEWEST, agents)


def _measure(python: Path, agents: int) -> Iterator[Figure]:
    here, there = split_processors()
    served, loading = Place(python, here), Place(cpus=there)  # the same agents whatever they meet
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name:
        directory, identities = Path(name), Path(name) / "identities.json"
        daemon = Daemon(directory, served)
        with daemon.running():
            begun = time.monotonic()
            save(identities, asyncio.run(_enroll(daemon, agents)))
            yield Figure(f"enrolments, {agents} of them", agents / (time.monotonic() - begun), "per s")
        yield from _under_load(daemon, identities, agents, loading, _baseline(directory, served, identities, loading))


async def _enroll(daemon: Daemon, count: int) -> list[Any]:
    return await enroll_all(daemon.enrollment_address, daemon.ca_pem, daemon.token(count), count)


def _baseline(directory: Path, served: Place, identities: Path, loading: Place) -> "Baseline":
    """Measure the bare server in the same way as the daemon."""
    port, agents = free_port(), len(json.loads(identities.read_text()))
    with ExitStack() as stack:
        program, address = stack.enter_context(bare_server(directory, served, port=port))
        fleet = stack.enter_context(Fleet(address, identities, agents, place=loading))
        idle = Costs.of(program.process_id)
        fleet.wait_connected(_CONNECT_SECONDS)
        time.sleep(SETTLE_SECONDS)
        loads = [_window(program, fleet, idle) for _ in range(ROUNDS)]
        sessions = _cut_off(program, fleet)
        program, _ = stack.enter_context(bare_server(directory, served, port=port))
        return Baseline(loads, _all_back(program, fleet, sessions))


def _window(program: Program, fleet: Fleet, idle: Costs) -> Load:
    before, beats_before, begun = Costs.of(program.process_id), fleet.report().beats, time.monotonic()
    time.sleep(WINDOW_SECONDS)
    after, beats = Costs.of(program.process_id), fleet.report().beats - beats_before
    return Load(
        (after.cpu_seconds - before.cpu_seconds) / beats * 1e6,
        (after.rss_bytes - idle.rss_bytes) / fleet.count,
        after.written_bytes - before.written_bytes,
        beats / (time.monotonic() - begun),
    )


def _under_load(
    daemon: Daemon, identities: Path, agents: int, place: Place, bare: Baseline
) -> Iterator[Figure]:
    with daemon.running() as program:
        idle = Costs.of(program.process_id)
        with Fleet(daemon.address, identities, agents, place=place) as fleet:
            fleet.wait_connected(_CONNECT_SECONDS)
            time.sleep(SETTLE_SECONDS)
            loads = [_window(program, fleet, idle) for _ in range(ROUNDS)]
            yield from _compared(loads, bare.loads)
            yield from _listing(daemon, agents)
            killed_at = time.time()
            yield from _restarted(daemon, fleet, _cut_off(program, fleet), killed_at, bare.back)


def _compared(loads: list[Load], bare: list[Load]) -> Iterator[Figure]:
    cost, plain = (median([load.cpu_microseconds_per_beat for load in side]) for side in (loads, bare))
    detail = f"{cost:.0f} against {plain:.0f} µs at {median([load.beats_per_second for load in loads]):.0f} beats/s"
    yield Figure("CPU per heartbeat, ratio to a bare stream", cost / plain, "x", 1.5, baseline=plain, detail=detail)
    size, plain = (median([load.bytes_per_agent for load in side]) for side in (loads, bare))
    detail = f"{size / 1024:.0f} against {plain / 1024:.0f} KiB"
    yield Figure("memory per agent, ratio to a bare stream", size / plain, "x", 1.2, baseline=plain, detail=detail)
    written = sum(load.written_bytes for load in loads)
    detail = f"in {ROUNDS * WINDOW_SECONDS:.0f} s"
    yield Figure("written to disk while heartbeats come", written, "bytes", 0, detail=detail)


def _listing(daemon: Daemon, agents: int) -> Iterator[Figure]:
    """Time ListNodes as the command line calls it, while the heartbeats come."""
    table = _listings(daemon, agents, NODE_VIEW_BASIC)
    detail = f"median {median(table) * 1e3:.1f} ms of {LIST_CALLS} calls, {agents} nodes"
    yield Figure("ListNodes for a table, 99th percentile", quantile(table, 0.99) * 1e3, "ms", 50, detail=detail)
    full = _listings(daemon, agents, NODE_VIEW_FULL)
    detail = f"median {median(full) * 1e3:.1f} ms"
    yield Figure("ListNodes for --json, 99th percentile", quantile(full, 0.99) * 1e3, "ms", detail=detail)


def _listings(daemon: Daemon, agents: int, view: NodeView) -> list[float]:
    """Return the seconds that each call took, until its answer was read."""
    seconds, begun = [], time.perf_counter()
    requests = [ListNodesRequest(with_samples=True, view=view)] * LIST_CALLS
    for response in daemon.calls(NodeAdminServiceStub, "ListNodes", requests):
        seconds.append(time.perf_counter() - begun)
        if len(response.nodes) != agents:
            raise RuntimeError(f"ListNodes knows {len(response.nodes)} of {agents} nodes")
        time.sleep(0.02)
        begun = time.perf_counter()
    return seconds


def _cut_off(program: Program, fleet: Fleet) -> int:
    """Kill the server; return how many sessions there must have been once all are back.

    The agents stand for 2,000 machines that do a handshake each, so they may use all processors for it too.
    """
    sessions = fleet.report().sessions + fleet.count
    fleet.use(ALL)
    program.kill()
    return sessions


def _all_back(program: Program, fleet: Fleet, sessions: int) -> Return:
    """Count from when the server answers until the last agent is welcome; it has all processors, as a daemon has."""
    program.use(ALL)
    begun, machine, before = time.monotonic(), Machine.now(), Costs.of(program.process_id).cpu_seconds
    first = fleet.report()
    last = fleet.wait_connected(_CONNECT_SECONDS, sessions=sessions)
    spent, ended = Costs.of(program.process_id).cpu_seconds - before, Machine.now()
    fleet_spent = last.cpu_seconds - first.cpu_seconds
    busy = ended.busy_seconds - machine.busy_seconds + ended.stolen_seconds - machine.stolen_seconds
    others = max(busy - spent - fleet_spent, 0.0)
    return Return(last.last_connected - begun, spent, fleet_spent, others, last.failures - first.failures)


def _restarted(
    daemon: Daemon, fleet: Fleet, sessions: int, killed_at: float, bare: Return
) -> Iterator[Figure]:
    """Start the killed daemon again."""
    with daemon.running() as program:
        back = _all_back(program, fleet, sessions)
        seconds, plain = back.seconds, bare.seconds
        detail = f"{fleet.count} agents, {back.failures} attempts failed meanwhile; a bare server: {plain:.1f} s"
        yield Figure("all back after a kill -9 and restart", seconds, "s", 10, baseline=plain, detail=detail)
        for name, side in (("daemon", back), ("bare server", bare)):
            shares = f"agents {side.fleet_seconds:.1f} s, other programs {side.other_seconds:.1f} s"
            yield Figure(f"CPU of the {name} meanwhile", side.cpu_seconds, "s", detail=shares)
        cost, plain = (side.cpu_seconds / fleet.count * 1e3 for side in (back, bare))
        detail = f"{cost:.2f} against {plain:.2f} ms of CPU for each, its first heartbeats included"
        yield Figure("CPU per reconnect, ratio to a bare server", cost / plain, "x", baseline=plain, detail=detail)
        time.sleep(GRACE_SECONDS)
        offline = _offline(daemon, killed_at)
        yield Figure("marked offline meanwhile", offline, "nodes", 0, detail=f"seen {GRACE_SECONDS:.0f} s later")


def _offline(daemon: Daemon, since: float) -> int:
    """Count nodes that are not ready now, and events since that moment which say that one was offline."""
    listed = daemon.call(NodeAdminServiceStub, "ListNodes", ListNodesRequest()).nodes
    events = daemon.calls(EventServiceStub, "WatchEvents", [WatchEventsRequest(limit=10_000)])
    kinds = [answer.event.kind for stream in events for answer in stream if answer.event.time_unix_seconds >= since]
    unwell: int = sum(node.state != NODE_STATE_READY for node in listed)
    return unwell + kinds.count("node-offline")
