"""Traffic of this machine's network cards from /proc/net/dev."""

import time
from collections.abc import Callable

import psutil

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.api import NoData


class NetworkCollector:
    """Bytes per second since the last call over all interfaces but loopback."""

    name = "network"
    every_seconds = 0.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, int, int] | None = None

    def collect(self, sample: Sample) -> None:
        """Fill the two rates; raise NoData where the kernel hides the counters. The first call only sets the mark."""
        try:
            cards = psutil.net_io_counters(pernic=True, nowrap=False)
        except PermissionError as error:
            raise NoData("the kernel hides /proc/net/dev from this user") from error
        counted = [counters for name, counters in cards.items() if name != "lo"]
        now = (self._clock(), sum(c.bytes_recv for c in counted), sum(c.bytes_sent for c in counted))
        last, self._last = self._last, now
        if last is None or now[0] <= last[0]:
            return
        seconds = now[0] - last[0]
        # A card that went away, or a counter that wrapped, must not look like negative traffic.
        sample.network_received_bytes_per_second = int(max(0, now[1] - last[1]) / seconds)
        sample.network_sent_bytes_per_second = int(max(0, now[2] - last[2]) / seconds)
