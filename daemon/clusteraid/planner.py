"""Which workers a node shall run, and whether it fits its pool: pure functions on facts."""

from collections.abc import Iterable, Mapping

from clusterai.v1.types_pb2 import (
    ENVIRONMENT_STATE_INCOMPATIBLE,
    ENVIRONMENT_STATE_READY,
    MACHINE_CLASS_PHONE,
    WORKER_STATE_RUNNING,
    WORKER_STATE_STARTING,
    EnvironmentSpec,
    EnvironmentStatus,
    NodeFacts,
    WorkerSpec,
    WorkerStatus,
)
from clusteraid.registry import Misfit

_MEMORY_SHARE = 0.75  # of the machine, for all workers together: the rest is for the system and the page cache
_LEAST_MEMORY_BYTES = 1 << 28
_MOST_WORKERS = 64
_VERSIONS_ON_A_PHONE = "on the phone, `pkg upgrade`: the server publishes the package that matches"
_PYTHON_ON_A_PHONE = (
    "on the phone, `pkg upgrade`; when Termux has a newer Python than the pool, write its minor to "
    "`python` below [mobile] in clusteraid.toml on the server"
)


def judge(facts: NodeFacts, environment: EnvironmentSpec, status: EnvironmentStatus, pool: str) -> Misfit | None:
    """Return why the node cannot work in the pool; None when it can.

    Dask across Python minors, or across versions of its serialisers, crashes workers: such a node gets none.
    """
    minor = environment.python_minor
    if minor not in facts.pythons:
        found = ", ".join(facts.pythons) or "none that a pool can use"
        hint = _PYTHON_ON_A_PHONE if is_phone(facts) else f"on the node, {how_to_get_python(minor)}"
        return Misfit(f"pool {pool} needs Python {minor}; the node has {found}", hint)
    if status.environment_hash != environment.environment_hash:
        return None
    if status.state == ENVIRONMENT_STATE_INCOMPATIBLE:
        return Misfit(status.reason or f"the node cannot build the environment of pool {pool}", status.hint)
    if status.state == ENVIRONMENT_STATE_READY:
        directory = f"env/{environment.environment_hash}"
        anew = f"remove {directory} below the node's compute directory and restart clusterai-agent: it is built anew"
        return _judge_versions(environment, status.versions, _VERSIONS_ON_A_PHONE if is_phone(facts) else anew)
    return None


def is_phone(facts: NodeFacts) -> bool:
    """Whether the machine is a phone: what it computes with comes in Termux's packages."""
    return bool(facts.machine_class == MACHINE_CLASS_PHONE)


def how_to_get_python(minor: str) -> str:
    """Return what to do on a machine whose agent lacks that Python."""
    return (
        f"`apt install python{minor} python{minor}-venv`; where its distribution lacks that, "
        f"`sudo UV_PYTHON_INSTALL_DIR=/usr/local/share/uv/python uv python install {minor}`; then "
        "`systemctl restart clusterai-agent`"
    )


def _judge_versions(environment: EnvironmentSpec, installed: Mapping[str, str], hint: str) -> Misfit | None:
    """Compare what both sides know of: a package that one of them does not name is no difference."""
    wanted = environment.versions
    differing = sorted(name for name in wanted if name in installed and installed[name] != wanted[name])
    if not differing:
        return None
    listed = ", ".join(f"{name} {installed[name]} (pool: {wanted[name]})" for name in differing[:4])
    return Misfit(f"its environment holds other versions: {listed}", hint)


def plan_workers(node_id: str, facts: NodeFacts) -> tuple[WorkerSpec, ...]:
    """Return a worker for each GPU, else as many CPU workers as the node's own configuration says, one by default.

    The machine's threads and 3/4 of its memory are divided evenly; the node's own limits come first.
    """
    limits = facts.worker_limits
    if limits.disabled:
        return ()
    if facts.gpus:
        return _gpu_workers(node_id, facts)
    count = min(max(limits.worker_count, 1), _MOST_WORKERS)
    return tuple(_worker(node_id, index, count, facts) for index in range(count))


def still_running(workers: Iterable[WorkerSpec], reported: Iterable[WorkerStatus]) -> tuple[WorkerSpec, ...]:
    """Return those of the workers that run: where a node goes to rest none is started, whoever was restarted."""
    running = {one.worker_name for one in reported if one.state in (WORKER_STATE_RUNNING, WORKER_STATE_STARTING)}
    return tuple(worker for worker in workers if worker.worker_name in running)


def _gpu_workers(node_id: str, facts: NodeFacts) -> tuple[WorkerSpec, ...]:
    gpus = sorted(facts.gpus, key=lambda gpu: gpu.index)[:_MOST_WORKERS]
    workers = []
    for index, gpu in enumerate(gpus):
        worker = _worker(node_id, index, len(gpus), facts)
        worker.resources["GPU"] = 1
        worker.cuda_visible_devices = gpu.uuid or str(gpu.index)
        workers.append(worker)
    return tuple(workers)


def _worker(node_id: str, index: int, count: int, facts: NodeFacts) -> WorkerSpec:
    """The share of one of `count` workers."""
    limits = facts.worker_limits
    threads = limits.thread_count or facts.cpu_count or 1
    memory = limits.memory_limit_bytes or int(facts.memory_total_bytes * _MEMORY_SHARE)
    return WorkerSpec(
        worker_name=f"{node_id}-{index}",
        thread_count=max(threads // count, 1),
        memory_limit_bytes=max(memory // count, _LEAST_MEMORY_BYTES),
    )


def owner_of(worker_name: str) -> str:
    """Return the node id in a worker's name, `<node-id>-<index>`; empty when it is no such name."""
    node_id, _, index = worker_name.rpartition("-")
    return node_id if index.isdecimal() else ""
