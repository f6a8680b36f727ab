"""Memory from /proc/meminfo."""

from pathlib import Path

import psutil

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.procfile import PROC, ProcFile

_AVAILABLE = b"MemAvailable:"


class MemoryCollector:
    """What new work could have without swapping."""

    name = "memory"
    every_seconds = 0.0

    def __init__(self, proc: Path = PROC) -> None:
        self._meminfo = ProcFile(proc / "meminfo")

    def collect(self, sample: Sample) -> None:
        """Fill `memory_available_bytes`."""
        kibibytes = self._meminfo.read().partition(_AVAILABLE)[2].split(maxsplit=1)[0]
        sample.memory_available_bytes = int(kibibytes) * 1024


class SwapCollector:
    """Swap in use; apart from memory because reading it costs more and changes slowly."""

    name = "swap"
    every_seconds = 30.0

    def collect(self, sample: Sample) -> None:
        """Fill `swap_used_bytes`."""
        sample.swap_used_bytes = psutil.swap_memory().used
