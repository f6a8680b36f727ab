"""Dask through the cluster against a scheduler and workers started by hand, with TLS, on the same machine."""

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.cluster import Cluster, DaskAccess, DaskClient, running_cluster
from bench.measure import Figure, median
from bench.processes import Place, Program
from bench.servers import free_port
from clusterai.credentials import save_credentials
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key

TASKS, MEBIBYTES, ROUNDS = 3000, 128, 7
_NAMES = ("one", "two")
_START_SECONDS = 60.0


def measure() -> Iterator[Figure]:
    """Yield task rate and bandwidths as ratios; rounds alternate, so that both sides see the same machine."""
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name, ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(Path(name), Place(), _NAMES))
        by_hand = stack.enter_context(_by_hand(Path(name), cluster))
        clients = [
            stack.enter_context(DaskClient(cluster.environment, access, Place()))
            for access in (cluster.dask_access(), by_hand)
        ]
        found: list[dict[str, list[float]]] = [{}, {}]
        for client in clients:
            client.connect()
            _round(client)
        for number in range(ROUNDS):
            for side in (0, 1) if number % 2 else (1, 0):
                for what, value in _round(clients[side]).items():
                    found[side].setdefault(what, []).append(value)
    for what, unit in (("tasks", "/s"), ("to_client", "MiB/s"), ("to_worker", "MiB/s")):
        ours, theirs = (median(side[what]) for side in found)
        detail = f"{ours:.0f} against {theirs:.0f} {unit}, medians of {ROUNDS}"
        yield Figure(f"Dask {what}, ratio to one started by hand", ours / theirs, "x", 0.97, True, theirs, detail)


def _round(client: DaskClient) -> dict[str, float]:
    return {"tasks": client.call("rate", TASKS), **client.call("bandwidth", MEBIBYTES)}


@contextmanager
def _by_hand(directory: Path, cluster: Cluster) -> Iterator[DaskAccess]:
    """Start a scheduler and as many workers as the cluster has, of the same size, as Dask's own manual says."""
    ca, certificate = _certificate(directory)
    address = f"tls://127.0.0.1:{free_port()}"
    inside = Place(cluster.environment / "bin/python")
    tls = ("--tls-ca-file", ca, "--tls-cert", certificate, "--tls-key", certificate)
    where = ("--host", "127.0.0.1", "--port", address.rpartition(":")[2])
    with ExitStack() as stack:
        board = ("--dashboard-address", f"127.0.0.1:{free_port()}")
        scheduler = Program(
            "distributed.cli.dask_scheduler", *tls, *where, *board, place=inside, log=directory / "hand.log"
        )
        stack.enter_context(scheduler)
        _wait_for_port(int(where[-1]))
        for worker in cluster.workers().values():
            size = ("--nthreads", worker.thread_count, "--memory-limit", worker.memory_limit_bytes)
            options = (*size, "--no-nanny", "--no-dashboard", "--local-directory", directory / "hand")
            program = Program(
                "distributed.cli.dask_worker", address, *tls, *options, place=inside, log=directory / "hand.log"
            )
            stack.enter_context(program)
        yield DaskAccess(address, ca, certificate)


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
