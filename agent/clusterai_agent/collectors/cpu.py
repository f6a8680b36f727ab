"""CPU load from the kernel's counters."""

import contextlib
import os
from pathlib import Path

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.api import NoData
from clusterai_agent.collectors.procfile import PROC, ProcFile
from clusterai_agent.collectors.sysinfo import uptime_and_load

_IDLE = slice(3, 5)  # idle, iowait
_COUNTED = slice(1, 9)  # what follows, guests, is within user and nice (proc(5))


class CpuCollector:
    """Busy share of each logical CPU since the last call, and the load average."""

    name = "cpu"
    every_seconds = 0.0

    def __init__(self, proc: Path = PROC) -> None:
        self._stat = ProcFile(proc / "stat")
        self._last: list[tuple[int, int]] = []
        with contextlib.suppress(OSError):  # it will be reported
            self._last = self._ticks()

    def collect(self, sample: Sample) -> None:
        """Fill `cpu_busy_ratio` (0..1) and `load_1min`; raise NoData where the kernel hides /proc/stat (Android)."""
        with contextlib.suppress(OSError):
            sample.load_1min = _load()
        try:
            now = self._ticks()
        except PermissionError as error:
            raise NoData("the kernel hides /proc/stat from this user") from error
        last, self._last = self._last, now
        sample.cpu_busy_ratio.extend(map(_busy_ratio, last if len(last) == len(now) else now, now))

    def _ticks(self) -> list[tuple[int, int]]:
        """Return how many ticks each CPU has idled, and how many it has seen."""
        lines = self._stat.read().partition(b"\nintr")[0].split(b"\n")
        counted = [list(map(int, line.split()[_COUNTED])) for line in lines[1:] if line.startswith(b"cpu")]
        return [(sum(ticks[_IDLE]), sum(ticks)) for ticks in counted]


def _load() -> float:
    """Return the load of the last minute; from sysinfo(2) where Android hides what the C library would read."""
    with contextlib.suppress(AttributeError, OSError):
        return os.getloadavg()[0]
    return uptime_and_load()[1]


def _busy_ratio(last: tuple[int, int], now: tuple[int, int]) -> float:
    # The kernel's idle time may run backwards by a tick.
    idle, total = now[0] - last[0], now[1] - last[1]
    return min(1.0, max(0.0, 1 - idle / total)) if total > 0 else 0.0
