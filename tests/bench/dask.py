"""Dask through the cluster against a scheduler and workers started by hand, with TLS, on the same machine."""

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench.cluster import Cluster, DaskAccess, DaskClient, running_cluster
from bench.measure import Costs, Figure, interval_of_mean, median
from bench.processes import Place, Program, move, split_processors
from clusterai.credentials import save_credentials
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from support.ports import free_port

TASKS, MEBIBYTES = 100, 32  # a turn: a third of a second each
PAIRS, WARM_PAIRS = 25, 3  # of turns, for each start of both sides
LEAST_STARTS, MOST_STARTS, WIDTH = 8, 16, 0.04  # both start anew until each interval of 95 % is that narrow
_NAMES = ("one", "two")
_START_SECONDS = 60.0
_RATES = (("tasks", "/s"), ("to_client", "MiB/s"), ("to_worker", "MiB/s"))
_COSTS = (("task", "µs"), ("MiB", "µs"))
Turn = dict[str, float]
Pair = tuple[Turn, Turn]  # ours, and that of what was started by hand


@dataclass(frozen=True)
class Side:
    """Scheduler and workers under test, and the client that uses them."""

    client: DaskClient
    processes: list[int]

    def tasks(self) -> Turn:
        """Run tasks: their rate, and the CPU of scheduler and workers, which what else runs disturbs less."""
        begun = self._cpu_seconds()
        rate = self.client.call("rate", TASKS)
        return {"tasks": rate, "task": (self._cpu_seconds() - begun) / TASKS * 1e6}

    def transfers(self) -> Turn:
        """Move data: the bandwidths, and that CPU."""
        begun = self._cpu_seconds()
        moved = self.client.call("bandwidth", MEBIBYTES)
        return {**moved, "MiB": (self._cpu_seconds() - begun) / MEBIBYTES / len(moved) * 1e6}

    def _cpu_seconds(self) -> float:
        return sum(Costs.of(process_id).cpu_seconds for process_id in self.processes)


def measure() -> Iterator[Figure]:
    """Yield task rate, bandwidths and CPU as ratios.

    The sides take turns, as short as they can be, and each turn is compared with its neighbour: what else the machine
    does changes from one second to the next. And a process has its luck, with its addresses and hashes, for as long as
    it runs: both sides are started many times.
    """
    starts: list[list[Pair]] = []
    while len(starts) < LEAST_STARTS or (len(starts) < MOST_STARTS and not _narrow(starts)):
        starts.append(_one_start())
    for what, unit in _RATES:
        yield _compared(f"Dask {what}, ratio to one started by hand", what, unit, starts, 0.97)
    for what, unit in _COSTS:
        yield _compared(f"CPU per {what} in scheduler and workers, ratio", what, unit, starts)


def _one_start() -> list[Pair]:
    """Start both sides, let them take turns, end them."""
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name, ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(Path(name), Place(), _NAMES))
        access, processes = stack.enter_context(_by_hand(Path(name), cluster))
        own = _side(stack, cluster, cluster.dask_access(), cluster.units())
        sides = (own, _side(stack, cluster, access, processes))
        return [_pair(sides, number) for number in range(WARM_PAIRS + PAIRS)][WARM_PAIRS:]


def _pair(sides: tuple[Side, Side], number: int) -> Pair:
    """Measure both, in turns the one and the other first."""
    found: Pair = ({}, {})
    order = (0, 1) if number % 2 else (1, 0)
    for measure_one in (Side.tasks, Side.transfers):
        for side in order:
            found[side].update(measure_one(sides[side]))
    return found


def _narrow(starts: list[list[Pair]]) -> bool:
    intervals = (interval_of_mean(_ratios(starts, what)) for what, _ in _RATES)
    return all(high - low <= WIDTH for low, high in intervals)


def _ratios(starts: list[list[Pair]], what: str) -> list[float]:
    """Return each start's ratio."""
    return [median([ours[what] / theirs[what] for ours, theirs in pairs]) for pairs in starts]


def _compared(name: str, what: str, unit: str, starts: list[list[Pair]], limit: float | None = None) -> Figure:
    ours, theirs = (median([pair[side][what] for pairs in starts for pair in pairs]) for side in (0, 1))
    ratios = _ratios(starts, what)
    low, high = interval_of_mean(ratios)
    detail = f"{ours:.0f} against {theirs:.0f} {unit}, 95 % sure: {low:.3f} to {high:.3f}, {len(starts)} starts"
    return Figure(name, fmean(ratios), "x", limit, limit is not None, theirs, detail)


def _side(stack: ExitStack, cluster: Cluster, access: DaskAccess, processes: list[int]) -> Side:
    """Connect a client; scheduler and client share a processor, the workers another one."""
    here, there = split_processors()
    client = stack.enter_context(DaskClient(cluster.environment, access, Place(cpus=here)))
    client.connect()
    for process_id in processes:
        move(process_id, here if is_scheduler(process_id) else there)
    return Side(client, processes)


def is_scheduler(process_id: int) -> bool:
    """Tell a scheduler from a worker."""
    return b"dask_scheduler" in Path(f"/proc/{process_id}/cmdline").read_bytes()


def _variables(process_id: int) -> dict[str, str]:
    """Return the environment variables of a process."""
    entries = Path(f"/proc/{process_id}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


@contextmanager
def _by_hand(directory: Path, cluster: Cluster) -> Iterator[tuple[DaskAccess, list[int]]]:
    """Start a scheduler and as many workers as the cluster has, as Dask's own manual says.

    They have the size and the environment variables of the cluster's own.
    """
    ca, certificate = _certificate(directory)
    address, inside = f"tls://127.0.0.1:{free_port()}", Place(cluster.environment / "bin/python")
    tls = ("--tls-ca-file", ca, "--tls-cert", certificate, "--tls-key", certificate, "--host", "127.0.0.1")
    variables = {is_scheduler(process_id): _variables(process_id) for process_id in cluster.units()}
    with ExitStack() as stack:

        def start(module: str, *options: object) -> int:
            known, log = variables["scheduler" in module], directory / "hand.log"
            program = Program(module, *options, *tls, place=inside, log=log, variables=known)
            return stack.enter_context(program).process_id

        where = ("--port", address.rpartition(":")[2], "--dashboard-address", f"127.0.0.1:{free_port()}")
        processes = [start("distributed.cli.dask_scheduler", *where)]
        _wait_for_port(int(where[1]))
        for worker in cluster.workers().values():
            size = ("--nthreads", worker.thread_count, "--memory-limit", worker.memory_limit_bytes)
            options = (*size, "--no-nanny", "--no-dashboard", "--local-directory", directory / "hand")
            processes.append(start("distributed.cli.dask_worker", address, *options))
        yield DaskAccess(address, ca, certificate), processes


def _certificate(directory: Path) -> tuple[Path, Path]:
    authority, key = CertificateAuthority.create("by hand"), new_key()
    issued = authority.issue(new_csr(key), "spiffe://bench/dask/hand", server=True)
    ca, certificate = directory / "hand-ca.pem", directory / "hand.pem"
    ca.write_bytes(authority.cert_pem)
    save_credentials(certificate, key_pem(key), issued.chain_pem)
    return ca, certificate


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
