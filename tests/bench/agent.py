"""The agent: memory after an hour of heartbeats, and CPU against a bare stream that sends the same bytes."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import Costs, Figure, median
from bench.processes import Place, Program, split_processors
from bench.servers import bare_server
from clusterai.credentials import save_credentials
from clusterai.ids import ClusterId, parse_node_id
from clusterai.pki import CertificateAuthority
from clusterai_agent.home import Home, Membership
from load.identities import CLUSTER_ID, NodeIdentity, issue

INTERVAL_SECONDS, HOUR_OF_BEATS, WINDOW_BEATS, ROUNDS = 0.05, 720, 400, 3
_WAIT_SECONDS = 120.0


def measure() -> Iterator[Figure]:
    """Yield the agent's figures."""
    here, there = (Place(cpus=cpus) for cpus in split_processors())
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name:
        directory = Path(name)
        authority = made_authority(directory)
        agent, bare = issue(authority, 2)
        with bare_server(directory, there, interval=INTERVAL_SECONDS) as (server, address):
            with running_agent(directory, agent, address, here) as program:
                _wait_for_beats(server, HOUR_OF_BEATS)
                costs = [_cost(program, server) for _ in range(ROUNDS)]
                memory = Costs.of(program.process_id).rss_bytes / 1e6
            message = json.loads(server.ask("report"))["latest"]
            plain = _baseline(directory, bare, address, message, here)
        yield Figure("agent's RSS after an hour's worth of beats", memory, "MB", 45, detail=f"{HOUR_OF_BEATS}+ beats")
        cost = median(costs)
        detail = f"{cost:.0f} against {plain:.0f} µs for the same {len(message) // 2} bytes"
        yield Figure("CPU per heartbeat, ratio to a bare stream", cost / plain, "x", 2.0, baseline=plain, detail=detail)


def made_authority(directory: Path) -> CertificateAuthority:
    """Make a CA where the bare server looks for the daemon's."""
    authority = CertificateAuthority.create("bench", f"spiffe://{CLUSTER_ID}")
    state = directory / "state"
    state.mkdir()
    (state / "cluster-ca.key").write_bytes(authority.key_pem)
    (state / "cluster-ca.pem").write_bytes(authority.cert_pem)
    return authority


@contextmanager
def running_agent(directory: Path, identity: NodeIdentity, address: str, place: Place) -> Iterator[Program]:
    """Run a real agent that has joined already."""
    home, config = Home(directory / "agent"), directory / "agent.toml"
    home.directory.mkdir()
    membership = Membership(parse_node_id(identity.node_id), ClusterId(CLUSTER_ID), (address,))
    home.store(membership, identity.key.encode(), identity.chain.encode(), identity.ca.encode())
    config.write_text(
        f'[server]\naddresses = ["{address}"]\ndiscover = false\n'
        f'[state]\ndirectory = "{home.directory}"\ncompute_directory = "{directory}/compute"\n'
        f'scratch_directory = "{directory}/dask"\n[units]\nback_end = "process"\nstop_on_exit = true\n'
    )
    for name in ("compute", "dask"):
        (directory / name).mkdir()
    arguments = ("--config", config, "run")
    log = directory / "agent.log"
    with Program("clusterai_agent", *arguments, place=place, log=log) as program:
        yield program


def _baseline(directory: Path, identity: NodeIdentity, address: str, message: str, place: Place) -> float:
    """Return what a heartbeat costs a client that does nothing but send it."""
    certificate, ca = directory / "bare-client.pem", directory / "state/cluster-ca.pem"
    save_credentials(certificate, identity.key.encode(), identity.chain.encode())
    arguments = ("--target", address, "--certificate", certificate, "--ca", ca, "--message", message)
    with Program("load.stream", *arguments, "--interval", INTERVAL_SECONDS, place=place) as program:
        time.sleep(2)
        costs = []
        for _ in range(ROUNDS):
            before, sent = Costs.of(program.process_id).cpu_seconds, int(program.ask("report"))
            time.sleep(WINDOW_BEATS * INTERVAL_SECONDS)
            sent = int(program.ask("report")) - sent
            costs.append((Costs.of(program.process_id).cpu_seconds - before) / sent * 1e6)
    return median(costs)


def _beats(server: Program) -> int:
    beats: int = json.loads(server.ask("report"))["beats"]
    return beats


def _wait_for_beats(server: Program, count: int) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while _beats(server) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {_beats(server)} of {count} heartbeats came")
        time.sleep(0.5)


def _cost(program: Program, server: Program) -> float:
    """Return the microseconds of CPU that a heartbeat costs the agent, over some hundreds."""
    before, sent = Costs.of(program.process_id).cpu_seconds, _beats(server)
    time.sleep(WINDOW_BEATS * INTERVAL_SECONDS)
    return (Costs.of(program.process_id).cpu_seconds - before) / (_beats(server) - sent) * 1e6
