"""A phone's battery and Wi-Fi, from Termux:API."""

import math
from collections.abc import Mapping
from typing import Any

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.termux_api import ApiProgram, Nonsense

_CELSIUS = (-40.0, 120.0)
_DBM = (-127, 0)
_CONNECTED, _NO_ADDRESS = "COMPLETED", ("", "0.0.0.0")


class PhoneBatteryCollector:
    """Charge, temperature, and whether a charger is connected."""

    name = "battery"
    every_seconds = 30.0

    def __init__(self, program: ApiProgram) -> None:
        self._program = program

    def collect(self, sample: Sample) -> None:
        """Fill `battery`; raise NoData where Termux:API does not answer, Nonsense where it says nonsense."""
        answer = self._program.read()
        percent = _number(answer, "percentage", (0, 100))
        if percent is None:
            raise Nonsense(f"termux-battery-status tells no charge: percentage is {answer.get('percentage')!r:.40}")
        plugged = _plugged(answer)
        sample.battery.charge_ratio = percent / 100
        sample.battery.plugged_in, sample.battery.plugged_unknown = bool(plugged), plugged is None
        sample.battery.temperature_celsius = _number(answer, "temperature", _CELSIUS) or 0.0


class PhoneWifiCollector:
    """Whether the phone is on Wi-Fi, and how strong the signal is; never where: no name and no address."""

    name = "wifi"
    every_seconds = 30.0

    def __init__(self, program: ApiProgram) -> None:
        self._program = program

    def collect(self, sample: Sample) -> None:
        """Fill `wifi`; raise NoData where Termux:API does not answer, Nonsense where it says nonsense."""
        answer = self._program.read()
        state, address = answer.get("supplicant_state"), answer.get("ip")
        if not isinstance(state, str) or not isinstance(address, str):
            raise Nonsense("termux-wifi-connectioninfo tells neither state nor address")
        sample.wifi.connected = state == _CONNECTED and address not in _NO_ADDRESS
        sample.wifi.signal_dbm = int(_number(answer, "rssi", _DBM) or 0) if sample.wifi.connected else 0


def _plugged(answer: Mapping[str, Any]) -> bool | None:
    """Whether a charger is connected; by `status` where `plugged` is not told; None where nothing tells."""
    plugged, status = answer.get("plugged"), answer.get("status")
    if isinstance(plugged, str) and plugged.startswith(("PLUGGED", "UNPLUGGED")):
        return plugged.startswith("PLUGGED")
    return {"CHARGING": True, "DISCHARGING": False}.get(status) if isinstance(status, str) else None


def _number(answer: Mapping[str, Any], key: str, limits: tuple[float, float]) -> float | None:
    """Return a number that makes sense; None for anything else."""
    value: Any = answer.get(key)
    if type(value) not in (int, float) or not math.isfinite(value) or not limits[0] <= value <= limits[1]:
        return None
    return float(value)
