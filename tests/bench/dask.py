"""Dask through the cluster against a scheduler and workers started by hand, with TLS, on the same machine."""

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cluster import Cluster, DaskAccess, DaskClient, running_cluster
from bench.measure import Costs, Figure, median, quantile
from bench.processes import Place, Program, move, split_processors
from bench.servers import free_port
from clusterai.credentials import save_credentials
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key

TASKS, MEBIBYTES, ROUNDS = 2000, 128, 25
_NAMES = ("one", "two")
_START_SECONDS = 60.0
_WHAT = (("tasks", "/s"), ("to_client", "MiB/s"), ("to_worker", "MiB/s"))


@dataclass(frozen=True)
class Side:
    """Scheduler and workers under test, and the client that uses them."""

    client: DaskClient
    processes: list[int]

    def round(self) -> dict[str, float]:
        """Measure once."""
        before = self._cpu_seconds()
        tasks = self.client.call("rate", TASKS)
        spent = self._cpu_seconds() - before
        return {"tasks": tasks, "cpu": spent / TASKS * 1e6, **self.client.call("bandwidth", MEBIBYTES)}

    def _cpu_seconds(self) -> float:
        return sum(Costs.of(process_id).cpu_seconds for process_id in self.processes)


def measure() -> Iterator[Figure]:
    """Yield task rate and bandwidths as ratios.

    Rounds alternate, and each is compared with its neighbour: what else the machine does changes between rounds.
    """
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name, ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(Path(name), Place(), _NAMES))
        access, processes = stack.enter_context(_by_hand(Path(name), cluster))
        own = _side(stack, cluster, cluster.dask_access(), cluster.units())
        sides = (own, _side(stack, cluster, access, processes))
        for side in sides:
            side.round()
        rounds = [_both(sides, number) for number in range(ROUNDS)]
    for what, unit in _WHAT:
        ours, theirs = (median([pair[side][what] for pair in rounds]) for side in (0, 1))
        ratios = [ours[what] / theirs[what] for ours, theirs in rounds]
        middle = f"half of the {ROUNDS} pairs {quantile(ratios, 0.25):.2f} to {quantile(ratios, 0.75):.2f}"
        detail = f"{ours:.0f} against {theirs:.0f} {unit}, {middle}"
        yield Figure(f"Dask {what}, ratio to one started by hand", median(ratios), "x", 0.97, True, theirs, detail)
    ours, theirs = (median([pair[side]["cpu"] for pair in rounds]) for side in (0, 1))
    ratio = median([ours["cpu"] / theirs["cpu"] for ours, theirs in rounds])
    detail = f"{ours:.0f} against {theirs:.0f} µs in scheduler and workers"
    yield Figure("CPU per Dask task, ratio to one started by hand", ratio, "x", baseline=theirs, detail=detail)


def _both(sides: tuple[Side, Side], number: int) -> tuple[dict[str, float], dict[str, float]]:
    """Measure both, in turns the one and the other first."""
    if number % 2:
        theirs, ours = sides[1].round(), sides[0].round()
    else:
        ours, theirs = sides[0].round(), sides[1].round()
    return ours, theirs


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
