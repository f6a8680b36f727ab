"""A phone that rests: the agent's memory and processor at 15 s heartbeats, and each byte between it and the server.

It is the simulated phone of the tests, with the packages that are built from this tree.
"""

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from socket import SHUT_RDWR, create_connection, create_server, socket

from bench.agent import made_authority
from bench.measure import Costs, Figure, Memory
from bench.processes import Place, Program, move, split_processors
from bench.servers import bare_server
from clusterai.ids import ClusterId, parse_node_id
from clusterai_agent.home import Home, Membership
from load.identities import CLUSTER_ID, NodeIdentity, issue
from support.phone_image import GROUP, USER
from support.termux import Phone
from support.traces import TRACES, changes, most_in_an_hour
from support.tree import ROOT

INTERVAL_SECONDS, SETTLE_SECONDS, WINDOW_SECONDS = 15.0, 30.0, 180.0
_START_SECONDS = 60.0
_HEADERS_BYTES = 2 * 66  # Ethernet, IP and TCP with its time stamps, for a segment and for its acknowledgement
# Its server is on loopback, so without the class it would be the server.
_SETTINGS = '[server]\naddresses = ["{address}"]\ndiscover = false\n[policy]\nmachine_class = "phone"\n'


def measure() -> Iterator[Figure]:
    """Yield a resting phone's figures, and how often the policy lets a phone change; needs root."""
    here, there = (Place(cpus=cpus) for cpus in split_processors())
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the phone's user goes through it
        [identity] = issue(made_authority(directory), 1)
        with (
            bare_server(directory, there, interval=INTERVAL_SECONDS) as (server, address),
            Meter.before(address) as meter,
            Phone.on(directory) as phone,
        ):
            _prepare(phone, identity, meter.address)
            with _running(phone, directory / "agent.log") as process_id:
                move(process_id, here.cpus)
                time.sleep(SETTLE_SECONDS)
                yield from _figures(process_id, server, meter)
    yield _worst_trace()


def _prepare(phone: Phone, identity: NodeIdentity, address: str) -> None:
    """Install the packages on a phone that is unplugged, and make it a node of the server at the address."""
    build: list[str | Path] = [ROOT / "scripts/build-termux", "-o", phone.directory / "debs"]
    built = subprocess.run(build, capture_output=True, text=True, timeout=600, check=False)
    done = built if built.returncode else phone.install(*(phone.directory / "debs").glob("*.deb"))
    if done.returncode:
        raise RuntimeError(f"the packages cannot be built or installed:\n{done.stderr}")
    phone.battery(plugged="UNPLUGGED", status="DISCHARGING", percentage=41)
    phone.write("etc/clusterai/agent.toml", _SETTINGS.format(address=address))
    home = Home(phone.at("var/lib/clusterai-agent"))
    membership = Membership(parse_node_id(identity.node_id), ClusterId(CLUSTER_ID), (address,))
    home.store(membership, identity.key.encode(), identity.chain.encode(), identity.ca.encode())
    for file in home.directory.iterdir():
        os.chown(file, USER, GROUP)


@contextmanager
def _running(phone: Phone, log: Path) -> Iterator[int]:
    """Run the agent on the phone until that is off; yield the agent's process id when it has a session."""
    program = phone.start("clusterai-agent", "run", log=log)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while "connected to" not in log.read_text():
            if program.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the agent on the phone does not connect:\n{log.read_text()}")
            time.sleep(0.2)
        [process_id] = [number for number, words in phone.processes().items() if words[-1:] == ["run"]]
        yield process_id
    finally:
        phone.switch_off()
        program.wait()


def _figures(process_id: int, server: Program, meter: "Meter") -> Iterator[Figure]:
    before, sent, beats = Costs.of(process_id), meter.bytes, _beats(server)
    time.sleep(WINDOW_SECONDS)
    after, sent, beats = Costs.of(process_id), meter.bytes - sent, _beats(server) - beats
    share = (after.cpu_seconds - before.cpu_seconds) / WINDOW_SECONDS * 100
    yield Figure("a resting phone's agent, RSS", after.rss_bytes / 1e6, "MB", 45, detail=str(Memory.of(process_id)))
    yield Figure("its processor time", share, "% of a core", 0.3, detail=f"{beats} beats in {WINDOW_SECONDS:.0f} s")
    detail = "both ways, with 132 bytes for each segment and its acknowledgement"
    yield Figure("on the wire", sent * 60 / WINDOW_SECONDS, "bytes a minute", 2000, detail=detail)


def _worst_trace() -> Figure:
    """How often a node changes between work and rest on the worst trace; all of them are made, none was recorded."""
    worst = {name: _most_changes(name) for name in TRACES}
    name = max(worst, key=lambda one: worst[one])
    detail = f"{name}; made, not recorded"
    return Figure("changes of work and rest, worst trace", worst[name], "an hour", 4, detail=detail)


def _most_changes(name: str) -> int:
    trace, policy = TRACES[name]
    return most_in_an_hour(changes(trace, replace(policy, dwell_seconds=0)))


def _beats(server: Program) -> int:
    beats: int = json.loads(server.ask("report"))["beats"]
    return beats


class Meter:
    """A relay that counts what passes."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = create_server(("127.0.0.1", 0))
        self._open: list[socket] = []
        self.bytes = 0

    @property
    def address(self) -> str:
        """Where to connect instead."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @classmethod
    @contextmanager
    def before(cls, target: str) -> "Iterator[Meter]":
        """Relay to the target until the end of the block."""
        meter = cls(target)
        accepting = threading.Thread(target=meter._accept)
        accepting.start()
        try:
            yield meter
        finally:
            for one in (meter._listener, *meter._open):
                with suppress(OSError):
                    one.shutdown(SHUT_RDWR)
                one.close()
            accepting.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = create_connection(self._target)
                self._open += [near, far]
                for source, goal in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, goal), daemon=True).start()

    def _pass(self, source: socket, goal: socket) -> None:
        with suppress(OSError):
            while segment := source.recv(1 << 16):
                self.bytes += len(segment) + _HEADERS_BYTES
                goal.sendall(segment)
        with suppress(OSError):
            goal.shutdown(SHUT_RDWR)
