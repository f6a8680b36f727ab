"""The battery from /sys/class/power_supply."""

from collections.abc import Callable
from typing import Any

import psutil

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.api import NoData


def read_battery() -> Any:
    """Return psutil's battery, or None where there is none or nobody may look."""
    try:
        return getattr(psutil, "sensors_battery", lambda: None)()
    except (OSError, ValueError):
        return None


class BatteryCollector:
    """Charge and whether the mains are connected."""

    name = "battery"
    every_seconds = 30.0

    def __init__(self, read: Callable[[], Any] = read_battery) -> None:
        self._read = read

    def collect(self, sample: Sample) -> None:
        """Fill `battery`; raise NoData where there is none."""
        battery = self._read()
        if battery is None:
            raise NoData("this machine has no battery")
        sample.battery.charge_ratio = min(1.0, max(0.0, battery.percent / 100))
        sample.battery.plugged_in = bool(battery.power_plugged)
