"""Traffic of this machine's network cards from /proc/net/dev."""

import time
from collections.abc import Callable
from pathlib import Path

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.api import NoData
from clusterai_agent.collectors.procfile import PROC, ProcFile

_RECEIVED, _SENT = 0, 8  # columns of /proc/net/dev


class NetworkCollector:
    """Bytes per second since the last call over all interfaces but loopback."""

    name = "network"
    every_seconds = 0.0

    def __init__(self, proc: Path = PROC, clock: Callable[[], float] = time.monotonic) -> None:
        self._counters, self._clock = ProcFile(proc / "net/dev"), clock
        self._last: tuple[float, int, int] | None = None

    def collect(self, sample: Sample) -> None:
        """Fill the two rates; raise NoData where the kernel hides the counters. The first call only sets the mark."""
        try:
            lines = self._counters.read().splitlines()[2:]
        except PermissionError as error:
            raise NoData("the kernel hides /proc/net/dev from this user") from error
        cards = [(name, counters.split()) for name, _, counters in (line.rpartition(b":") for line in lines)]
        counted = [(int(columns[_RECEIVED]), int(columns[_SENT])) for name, columns in cards if name.strip() != b"lo"]
        now = (self._clock(), sum(received for received, _ in counted), sum(sent for _, sent in counted))
        last, self._last = self._last, now
        if last is None or now[0] <= last[0]:
            return
        seconds = now[0] - last[0]
        # A card that went away, or a counter that wrapped, must not look like negative traffic.
        sample.network_received_bytes_per_second = int(max(0, now[1] - last[1]) / seconds)
        sample.network_sent_bytes_per_second = int(max(0, now[2] - last[2]) / seconds)
