"""What the daemon wants of this node, as values: decided from the spec and this machine's own limits, nothing else."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import EnvironmentSpec, WorkerSpec
from clusterai_agent.addresses import is_loopback

_WORKER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")
_SCHEDULER = re.compile(r"(tls)://(\[[0-9A-Fa-f:.%a-z]*\]|[^:/\[\]\s]*):(\d{1,5})")
_HASH = re.compile(r"[0-9a-f]{8,64}")
_MINOR = re.compile(r"3\.\d{1,2}")
_WORKER_LIMIT = 1024
_FURTHER_LIMIT = 4


@dataclass(frozen=True)
class DesiredWorker:
    """One worker as it shall run."""

    name: str
    thread_count: int
    memory_limit_bytes: int
    resources: Mapping[str, float] = field(default_factory=dict)
    cuda_visible_devices: str = ""


@dataclass(frozen=True)
class DesiredEnvironment:
    """The pool's environment; `build` says whether to make it if it is absent."""

    hash: str
    python_minor: str
    build: bool


@dataclass(frozen=True)
class Desired:
    """What to run. `problem` is why a part of the spec cannot be obeyed; `reason` why there are no workers."""

    generation: int
    scheduler_address: str = ""
    environment: DesiredEnvironment | None = None
    workers: tuple[DesiredWorker, ...] = ()
    further: tuple[DesiredEnvironment, ...] = ()  # of schedulers that run on this machine
    reason: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Limits:
    """What agent.toml and the machine allow; 0 threads: as the server says."""

    enabled: bool
    threads: int
    cpu_count: int
    memory_limit_bytes: int


def decide(spec: NodeSpec, limits: Limits) -> Desired:
    """Return what this node shall run. What a spec asks beyond the limits is cut; what makes no sense is a problem."""
    desired = Desired(spec.generation, reason=spec.reason, further=_further(spec))
    if not spec.HasField("pool"):
        return desired
    environment = spec.pool.environment
    if not _is_proper(environment):
        return replace(desired, problem="the server's environment has no proper hash or Python version")
    wanted = DesiredEnvironment(environment.environment_hash, environment.python_minor, spec.build_environment)
    desired = replace(desired, environment=wanted, scheduler_address=spec.pool.scheduler_address)
    if not limits.enabled and spec.workers:
        return replace(desired, reason="workers are switched off in agent.toml ([worker] enabled)")
    if not _SCHEDULER.fullmatch(spec.pool.scheduler_address) and spec.workers:
        return replace(desired, problem=f"the server named no proper scheduler: {spec.pool.scheduler_address!r}")
    names = [worker.worker_name for worker in spec.workers[:_WORKER_LIMIT]]
    bad = [name for name in names if not _WORKER_NAME.fullmatch(name)]
    if bad or len(set(names)) < len(names):
        return replace(desired, problem=f"the server named a worker improperly: {(bad or names)[0]!r}")
    return replace(desired, workers=tuple(_within(limits, worker, len(names)) for worker in spec.workers))


def _further(spec: NodeSpec) -> tuple[DesiredEnvironment, ...]:
    """The environments to be built beside the pool's; what makes no sense is left out, as the daemon's mistake."""
    proper = (one for one in spec.further_environments[:_FURTHER_LIMIT] if _is_proper(one))
    return tuple(DesiredEnvironment(one.environment_hash, one.python_minor, build=True) for one in proper)


def _is_proper(environment: EnvironmentSpec) -> bool:
    """Whether hash and minor are what they should be: directories and programs are named after them."""
    return bool(_HASH.fullmatch(environment.environment_hash) and _MINOR.fullmatch(environment.python_minor))


def _within(limits: Limits, worker: WorkerSpec, count: int) -> DesiredWorker:
    threads = worker.thread_count or max(1, limits.cpu_count // count)
    memory = limits.memory_limit_bytes // count
    return DesiredWorker(
        worker.worker_name,
        min(threads, limits.threads) if limits.threads else threads,
        min(worker.memory_limit_bytes or memory, memory),
        dict(sorted(worker.resources.items())),
        worker.cuda_visible_devices,
    )


def scheduler_at(address: str, server_host: str) -> str:
    """Return the scheduler's address with the host at which the daemon was reached where it names none."""
    match = _SCHEDULER.fullmatch(address)
    if match is None or match[2] not in ("", "[]"):
        return address
    host = f"[{server_host}]" if ":" in server_host else server_host
    return f"{match[1]}://{host}:{match[3]}"


def host_and_port(address: str) -> tuple[str, int]:
    """Return where a scheduler's address points."""
    match = _SCHEDULER.fullmatch(address)
    return (match[2].strip("[]"), int(match[3])) if match else ("", 0)


def contact_host(
    *, configured: str, towards_server: str, server_is_local: bool, own: Collection[str], running: str = ""
) -> str:
    """Return the address at which other workers reach this node's.

    It is the one that leads to the server. Loopback leads to nobody else, so on the server's own machine it is the
    first address that others can use, unless the whole cluster is this machine. A running worker's stays while the
    machine still has it: a change costs the worker what it holds.
    """
    if configured:
        return configured
    if running and running in own:
        return running
    if not towards_server or (is_loopback(towards_server) and not server_is_local):
        return next(iter(own), towards_server)
    return towards_server
