"""The collectors: a new one is a file with one class, and a line here."""

from pathlib import Path
from typing import Any

from clusterai_agent.collectors.api import Collector
from clusterai_agent.collectors.battery import BatteryCollector
from clusterai_agent.collectors.cpu import CpuCollector
from clusterai_agent.collectors.disk import DiskCollector
from clusterai_agent.collectors.gpu import GpuCollector
from clusterai_agent.collectors.memory import MemoryCollector
from clusterai_agent.collectors.network import NetworkCollector
from clusterai_agent.collectors.phone import PhoneBatteryCollector, PhoneWifiCollector
from clusterai_agent.collectors.temperature import TemperatureCollector
from clusterai_agent.collectors.termux_api import Phone
from clusterai_agent.nvml import Nvml

COLLECTORS = (
    CpuCollector, MemoryCollector, DiskCollector, NetworkCollector, TemperatureCollector, BatteryCollector,
    GpuCollector,
)
PHONE_COLLECTORS = (
    CpuCollector, MemoryCollector, DiskCollector, NetworkCollector, TemperatureCollector, PhoneBatteryCollector,
    PhoneWifiCollector,
)


def make_collectors(directory: Path, nvml: Nvml, phone: Phone | None = None) -> list[Collector]:
    """Return one of each, reading the disk of the directory, the GPUs of NVML, and what Termux:API tells of a phone."""
    needs: dict[Any, tuple[Any, ...]] = {DiskCollector: (directory,), GpuCollector: (nvml,)}
    if phone is not None:
        needs |= {PhoneBatteryCollector: (phone.battery,), PhoneWifiCollector: (phone.wifi,)}
    listed: tuple[Any, ...] = PHONE_COLLECTORS if phone is not None else COLLECTORS
    return [collector(*needs.get(collector, ())) for collector in listed]
