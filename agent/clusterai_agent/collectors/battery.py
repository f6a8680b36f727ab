"""The battery from /sys/class/power_supply."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.api import NoData

SUPPLIES = Path("/sys/class/power_supply")
_MOST_PERCENT = 110  # a worn battery says a little more than 100
_MAINS = ("Mains", "USB")
_TENTHS = 10.0  # `temp` is in tenths of a degree (Linux, Documentation/ABI/testing/sysfs-class-power)


def read_battery() -> Any:
    """Return psutil's battery, or None where there is none or nobody may look."""
    try:
        return getattr(psutil, "sensors_battery", lambda: None)()
    except (OSError, ValueError):
        return None


class BatteryCollector:
    """Charge, temperature, and whether the mains are connected."""

    name = "battery"
    every_seconds = 30.0

    def __init__(self, read: Callable[[], Any] = read_battery, supplies: Path | None = None) -> None:
        self._read, self._supplies = read, supplies or SUPPLIES

    def collect(self, sample: Sample) -> None:
        """Fill `battery`; raise NoData where there is none, ValueError where it says nonsense."""
        battery = self._read()
        if battery is None:
            raise NoData("this machine has no battery")
        if not 0 <= battery.percent <= _MOST_PERCENT:
            raise ValueError(f"{battery.percent} % is no charge")
        plugged = battery.power_plugged if battery.power_plugged is not None else mains_online(self._supplies)
        sample.battery.charge_ratio = min(1.0, battery.percent / 100)
        sample.battery.plugged_in, sample.battery.plugged_unknown = bool(plugged), plugged is None
        sample.battery.temperature_celsius = temperature(self._supplies)


def mains_online(supplies: Path) -> bool | None:
    """Whether a charger has power, of whatever name; None where nothing tells. psutil knows only AC and AC0."""
    online = [_text(supply / "online") for supply in _supplies(supplies) if _text(supply / "type") in _MAINS]
    known = [text for text in online if text in ("0", "1", "2")]  # 2: a charger that can be programmed
    return any(text != "0" for text in known) if known else None


def temperature(supplies: Path) -> float:
    """Return the warmest battery's temperature in degrees Celsius; 0 where none shows one."""
    shown = [_text(supply / "temp") for supply in _supplies(supplies) if _text(supply / "type") == "Battery"]
    return max((int(text) / _TENTHS for text in shown if text.isascii() and text.isdecimal()), default=0.0)


def _supplies(directory: Path) -> Iterator[Path]:
    try:
        yield from sorted(directory.iterdir())
    except OSError:
        return


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
