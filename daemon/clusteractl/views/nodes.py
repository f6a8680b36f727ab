"""Nodes as a person sees them."""

from collections.abc import Sequence

from clusteractl.output import Block, paragraph
from clusteractl.tables import Column, Table
from clusteractl.words import ago, listed, moment, plural, printable, size, span, until, word
from clusterai.v1.node_admin_pb2 import NODE_STATE_PENDING, DrainNodeResponse, Node, NodeState
from clusterai.v1.types_pb2 import (
    ENVIRONMENT_STATE_BUILDING,
    WORKER_STATE_HELD,
    WORKER_STATE_REGISTERED,
    EnvironmentState,
    EnvironmentStatus,
    NodeFacts,
    Sample,
    WorkerState,
    WorkerStatus,
)

_COLUMNS = (
    Column("NODE", least=12),
    Column("STATE", keep=True, stated=True),
    Column("CPUS", right=True, keep=True),
    Column("MEMORY", right=True, keep=True),
    Column("GPUS", least=4),
    Column("WORKERS", keep=True),
    Column("LOAD", right=True, keep=True),
    Column("HEARD", keep=True),
)
_LABEL = 13
_BRIEF = 300  # characters of a reason in a list
_NAMED = 3
_WORKING = (WORKER_STATE_REGISTERED, WORKER_STATE_HELD)


def node_table(nodes: Sequence[Node], now: float) -> Table:
    """One row a node: what it has, what it does, when it was last heard."""
    return Table(_COLUMNS, tuple(_row(node, now) for node in nodes))


def node_list(nodes: Sequence[Node], now: float, width: int) -> list[Block]:
    """The table, and below it what a person should know or do about single nodes."""
    if not nodes:
        return ["No node has joined. Make a token for the first one with: clusteractl token create"]
    return [node_table(nodes, now), *_remarks(nodes, width)]


def node_page(node: Node, now: float, width: int) -> list[Block]:
    """Everything about one node."""
    state = word(NodeState, node.state)
    since = f" for {span(now - node.since_unix_seconds)}" if node.since_unix_seconds else ""
    lines = [f"{node.node_id} is {state}{since}"]
    lines += [paragraph(text, indent="  ", width=width) for text in (node.reason, node.hint) if text]
    pairs = [*_session(node, now), *_hardware(node.facts), *_software(node.facts), *_readings(node.sample)]
    pairs += [("environment", _environment(node.environment)), ("pool", node.pool_name)]
    blocks: list[Block] = [*lines, "", *(_pair(name, value, width) for name, value in pairs if value)]
    return [*blocks, "", worker_table(node.workers)] if node.workers else blocks


def worker_table(workers: Sequence[WorkerStatus]) -> Table:
    """One row a worker; tasks and stored results as its scheduler last said. Its pool, where they are of several."""
    several = len({worker.pool_name for worker in workers}) > 1
    columns = (
        Column("WORKER", least=14), Column("NODE", least=8), *([Column("POOL", keep=True)] if several else []),
        Column("STATE", keep=True, stated=True),
        Column("THREADS", right=True, keep=True), Column("MEMORY", right=True, keep=True),
        Column("TASKS", right=True, keep=True), Column("STORED", right=True, keep=True),
    )  # fmt: skip
    return Table(columns, tuple(_worker_row(worker, several=several) for worker in workers))


def worker_list(workers: Sequence[WorkerStatus], width: int) -> list[Block]:
    """The table, and below it the reason of each worker that has one."""
    if not workers:
        return ["No worker runs. `clusteractl node list` says what each node does."]
    whose: dict[tuple[str, str], list[str]] = {}
    for worker in workers:
        if worker.reason:
            whose.setdefault((word(WorkerState, worker.state), worker.reason), []).append(worker.worker_name)
    notes = [_remark(f"{_several(names)} {state}", reason, width) for (state, reason), names in whose.items()]
    return [worker_table(workers), *([""] if notes else []), *notes]


def drain_line(node: str, step: DrainNodeResponse) -> str:
    """One step of a drain as a line."""
    state = word(NodeState, step.state)
    work = f"{plural(step.running_task_count, 'task')} running"
    results = f"{step.moved_result_count}/{step.total_result_count} results moved"
    return f"{node}: {state}, {work}, {results}" + (f", {step.message}" if step.message else "")


def _row(node: Node, now: float) -> tuple[str, ...]:
    facts, sample = node.facts, node.sample
    running = sum(worker.state in _WORKING for worker in node.workers)
    return (
        node.node_id,
        word(NodeState, node.state),
        str(facts.cpu_count or "-"),
        size(facts.memory_total_bytes),
        _gpus(facts) or "-",
        f"{running}/{len(node.workers)}" if node.workers else "-",
        f"{sample.load_1min:.1f}" if node.HasField("sample") else "-",
        ago(node.last_heard_unix_seconds, now),
    )


def _remarks(nodes: Sequence[Node], width: int) -> list[Block]:
    remarks: list[Block] = []
    for node in nodes:
        if node.reason:
            remarks.append(_remark(f"{node.node_id} is {word(NodeState, node.state)}", node.reason, width))
        if node.state == NODE_STATE_PENDING:
            remarks.append(f"{node.node_id} asks to join. Compare the code that it shows, then:")
            remarks.append(f"  clusteractl node approve {node.node_id} --code CODE")
        if node.hint:
            remarks.append(paragraph(_brief(node.hint), indent="  ", width=width))
    return ["", *remarks] if remarks else []


def _remark(head: str, reason: str, width: int) -> str:
    return paragraph(f"{head}: {_brief(reason)}", indent="  ", first="", width=width)


def _brief(text: str) -> str:
    """A reason as a list shows it; `node show` has all of it."""
    text = printable(text)
    return text if len(text) <= _BRIEF else text[: _BRIEF - 1] + "…"


def _several(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _session(node: Node, now: float) -> list[tuple[str, str]]:
    pairs = [("heard", ago(node.last_heard_unix_seconds, now)), ("address", node.address)]
    if node.certificate_expires_unix_seconds:
        expires = node.certificate_expires_unix_seconds
        pairs.append(("certificate", f"ends {until(expires, now)} ({moment(expires)})"))
    if abs(node.clock_skew_seconds) >= 1:
        pairs.append(("clock", f"{node.clock_skew_seconds:+.1f} s against the server"))
    return [*pairs, ("code", node.approval_code)]


def _hardware(facts: NodeFacts) -> list[tuple[str, str]]:
    gpus = [f"{gpu.name}, {size(gpu.memory_total_bytes)}, driver {gpu.driver_version}" for gpu in facts.gpus]
    model = facts.cpu_model or facts.architecture
    cpus = " × ".join(part for part in (str(facts.cpu_count or ""), model) if part)
    disk = size(facts.disk_total_bytes) if facts.disk_total_bytes else ""
    memory = size(facts.memory_total_bytes) if facts.memory_total_bytes else ""
    return [("cpu", cpus), ("memory", memory), ("disk", disk), *(("gpu", gpu) for gpu in gpus)]


def _software(facts: NodeFacts) -> list[tuple[str, str]]:
    system = " ".join(part for part in (facts.os_name, facts.kernel_release, facts.architecture) if part)
    agent = f"{facts.agent_version} on Python {facts.agent_python}" if facts.agent_version else ""
    return [("system", system), ("agent", agent), ("pythons", ", ".join(facts.pythons))]


def _readings(sample: Sample) -> list[tuple[str, str]]:
    if not sample.taken_unix_seconds:
        return []
    ratios = sample.cpu_busy_ratio
    used = [f"cpu {sum(ratios) / len(ratios):.0%}"] if ratios else []
    used.append(f"load {sample.load_1min:.1f}")
    used += [f"memory free {size(sample.memory_available_bytes)}"] if sample.memory_available_bytes else []
    warm = [f"{reading.sensor} {reading.celsius:.0f} °C" for reading in sample.temperatures]
    gpus = [f"gpu {gpu.index} {gpu.busy_ratio:.0%}, {size(gpu.memory_used_bytes)} used" for gpu in sample.gpus]
    battery = f"{sample.battery.charge_ratio:.0%}" if sample.HasField("battery") else ""
    pairs = [("now", ", ".join((*used, *gpus))), ("temperature", ", ".join(warm)), ("battery", battery)]
    return [*pairs, *_silent(sample)]


def _silent(sample: Sample) -> list[tuple[str, str]]:
    broken = [report for report in sample.collectors if not report.no_data]
    return [("no reading", f"{report.collector}: {report.reason}") for report in broken]


def _environment(environment: EnvironmentStatus) -> str:
    if not environment.state:
        return ""
    state = word(EnvironmentState, environment.state)
    if environment.state == ENVIRONMENT_STATE_BUILDING:
        state = f"{state} {environment.progress_ratio:.0%}"
    dask = f"dask {environment.versions['dask']}" if "dask" in environment.versions else ""
    return "; ".join(part for part in (state, environment.reason, environment.hint, dask) if part)


def _gpus(facts: NodeFacts) -> str:
    names = [gpu.name.removeprefix("NVIDIA ") for gpu in facts.gpus]
    kinds = sorted(set(names))
    return listed([name if names.count(name) == 1 else f"{names.count(name)} {name}" for name in kinds])


def _worker_row(worker: WorkerStatus, *, several: bool) -> tuple[str, ...]:
    return (
        worker.worker_name,
        worker.node_id or "-",
        *([worker.pool_name or "-"] if several else []),
        word(WorkerState, worker.state),
        str(worker.thread_count or "-"),
        size(worker.memory_limit_bytes),
        str(worker.running_task_count),
        size(worker.stored_bytes),
    )


def _pair(name: str, value: str, width: int) -> str:
    return paragraph(value, indent=" " * (_LABEL + 2), first=f"  {name:<{_LABEL}}", width=width)
