"""CPU load from the kernel's counters."""

import os

import psutil

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.api import NoData


class CpuCollector:
    """Busy share of each logical CPU since the last call, and the load average."""

    name = "cpu"
    every_seconds = 0.0

    def collect(self, sample: Sample) -> None:
        """Fill `cpu_busy_ratio` (0..1) and `load_1min`; raise NoData where the kernel hides /proc/stat (Android)."""
        try:
            percents = psutil.cpu_percent(percpu=True)
        except PermissionError as error:
            raise NoData("the kernel hides /proc/stat from this user") from error
        sample.cpu_busy_ratio.extend([percent / 100 for percent in percents])
        sample.load_1min = os.getloadavg()[0]
