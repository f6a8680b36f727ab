"""The collectors: a new one is a file with one class, and a line here."""

from pathlib import Path

from clusterai_agent.collectors.api import Collector
from clusterai_agent.collectors.battery import BatteryCollector
from clusterai_agent.collectors.cpu import CpuCollector
from clusterai_agent.collectors.disk import DiskCollector
from clusterai_agent.collectors.gpu import GpuCollector
from clusterai_agent.collectors.memory import MemoryCollector, SwapCollector
from clusterai_agent.collectors.network import NetworkCollector
from clusterai_agent.collectors.temperature import TemperatureCollector
from clusterai_agent.nvml import Nvml

COLLECTORS = (
    CpuCollector, MemoryCollector, SwapCollector, DiskCollector, NetworkCollector, TemperatureCollector,
    BatteryCollector, GpuCollector,
)


def make_collectors(directory: Path, nvml: Nvml) -> list[Collector]:
    """Return one of each, reading the disk of the directory and the GPUs of NVML."""
    needs = {DiskCollector: (directory,), GpuCollector: (nvml,)}
    return [collector(*needs.get(collector, ())) for collector in COLLECTORS]
