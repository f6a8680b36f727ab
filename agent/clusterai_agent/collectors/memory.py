"""Memory from /proc/meminfo."""

import psutil

from clusterai.v1.types_pb2 import Sample


class MemoryCollector:
    """What new work could have without swapping."""

    name = "memory"
    every_seconds = 0.0

    def collect(self, sample: Sample) -> None:
        """Fill `memory_available_bytes`."""
        sample.memory_available_bytes = psutil.virtual_memory().available


class SwapCollector:
    """Swap in use; apart from memory because reading it costs more and changes slowly."""

    name = "swap"
    every_seconds = 30.0

    def collect(self, sample: Sample) -> None:
        """Fill `swap_used_bytes`."""
        sample.swap_used_bytes = psutil.swap_memory().used
