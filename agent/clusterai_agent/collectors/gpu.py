"""NVIDIA GPUs, as NVML sees them."""

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.nvml import Nvml


class GpuCollector:
    """Load, memory, temperature and power of each GPU."""

    name = "gpu"
    every_seconds = 5.0

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml

    def collect(self, sample: Sample) -> None:
        """Fill `gpus`; raise NoData where there is no NVIDIA driver or no GPU."""
        sample.gpus.extend(self._nvml.samples())
