"""Memory from /proc/meminfo."""

from pathlib import Path

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.procfile import PROC, ProcFile

_AVAILABLE, _SWAP, _SWAP_FREE = b"MemAvailable:", b"SwapTotal:", b"SwapFree:"


class MemoryCollector:
    """What new work could have without swapping, and the swap in use."""

    name = "memory"
    every_seconds = 0.0

    def __init__(self, proc: Path = PROC) -> None:
        self._meminfo = ProcFile(proc / "meminfo")

    def collect(self, sample: Sample) -> None:
        """Fill `memory_available_bytes` and `swap_used_bytes`."""
        text = self._meminfo.read()
        sample.memory_available_bytes = _bytes_after(_AVAILABLE, text)
        sample.swap_used_bytes = max(0, _bytes_after(_SWAP, text) - _bytes_after(_SWAP_FREE, text))


def _bytes_after(key: bytes, text: bytes) -> int:
    """Return the key's value, which is in KiB."""
    return int(text.partition(key)[2].split(maxsplit=1)[0]) * 1024
