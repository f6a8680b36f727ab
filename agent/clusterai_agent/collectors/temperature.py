"""Temperatures from /sys/class/hwmon and /sys/class/thermal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from clusterai.v1.types_pb2 import Sample, TemperatureSample
from clusterai_agent.collectors.api import NoData

_LIMIT = 32  # some servers have hundreds of sensors
_PLAUSIBLE = (-60.0, 200.0)  # unconnected sensors report -127 or 255

Sensors = Callable[[], Mapping[str, Sequence[Any]]]


class TemperatureCollector:
    """Every sensor that reads something plausible, in degrees Celsius."""

    name = "temperature"
    every_seconds = 15.0

    def __init__(self, read: Sensors | None = None) -> None:
        self._read = read or self._sensors()

    @staticmethod
    def _sensors() -> Sensors:
        found: Sensors = getattr(psutil, "sensors_temperatures", dict)  # psutil has it on Linux and FreeBSD only
        return found

    def collect(self, sample: Sample) -> None:
        """Fill `temperatures`; raise NoData where there are no sensors or no right to read them."""
        try:
            chips = self._read()
        except PermissionError as error:
            raise NoData("the kernel hides the sensors from this user") from error
        found = [
            TemperatureSample(sensor=f"{chip}/{entry.label or index}"[:64], celsius=entry.current)
            for chip, entries in chips.items()
            for index, entry in enumerate(entries)
            if entry.current is not None and _PLAUSIBLE[0] < entry.current < _PLAUSIBLE[1]
        ]
        if not found:
            raise NoData("this machine shows no temperature sensors")
        sample.temperatures.extend(found[:_LIMIT])
