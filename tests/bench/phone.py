"""A phone that rests: the agent's memory and processor at 15 s heartbeats, and each byte between it and the server."""

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import SHUT_RDWR, create_connection, create_server, socket

from bench.agent import made_authority, running_agent
from bench.measure import Costs, Figure
from bench.processes import Place, Program, split_processors
from bench.servers import bare_server
from load.identities import issue
from support.tree import python_path

INTERVAL_SECONDS, SETTLE_SECONDS, WINDOW_SECONDS = 15.0, 30.0, 180.0
_HEADERS_BYTES = 2 * 66  # Ethernet, IP and TCP with its time stamps, for a segment and for its acknowledgement
# A phone as far as the agent's own code goes; psutil is one that knows Linux. It rests: nothing tells its charge.
_SITE = """
import ctypes, os, sys, sysconfig
import psutil
sysconfig.get_config_vars()
sys.platform = "android"
os.environ["PREFIX"] = {prefix!r}
"""


def measure() -> Iterator[Figure]:
    """Yield a resting phone's figures."""
    here, there = (Place(cpus=cpus) for cpus in split_processors())
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name:
        directory = Path(name)
        (directory / "sitecustomize.py").write_text(_SITE.format(prefix=f"{directory}/usr"))
        variables = python_path()
        variables["PYTHONPATH"] = os.pathsep.join((name, variables["PYTHONPATH"]))
        [phone] = issue(made_authority(directory), 1)
        with (
            bare_server(directory, there, interval=INTERVAL_SECONDS) as (server, address),
            Meter.before(address) as meter,
            running_agent(directory, phone, meter.address, here, variables) as program,
        ):
            time.sleep(SETTLE_SECONDS)
            yield from _figures(program, server, meter)


def _figures(program: Program, server: Program, meter: "Meter") -> Iterator[Figure]:
    before, sent, beats = Costs.of(program.process_id), meter.bytes, _beats(server)
    time.sleep(WINDOW_SECONDS)
    after, sent, beats = Costs.of(program.process_id), meter.bytes - sent, _beats(server) - beats
    share = (after.cpu_seconds - before.cpu_seconds) / WINDOW_SECONDS * 100
    yield Figure("a resting phone's agent, RSS", after.rss_bytes / 1e6, "MB", 45)
    yield Figure("its processor time", share, "% of a core", 0.3, detail=f"{beats} beats in {WINDOW_SECONDS:.0f} s")
    detail = "both ways, with 132 bytes for each segment and its acknowledgement"
    yield Figure("on the wire", sent * 60 / WINDOW_SECONDS, "bytes a minute", 2000, detail=detail)


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
