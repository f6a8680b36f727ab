"""When a node works and when it rests: the settings, their defaults by class of machine, and how they are written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any

from clusterai.errors import ClusterAIError, Status

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_SHOWN = 60


class BadPolicy(ClusterAIError):
    code, status = "bad-policy", Status.USAGE
    message = "{key} = {value}: {reason}"
    hint = "`clusteractl policy show` lists all settings with their values"


class MachineClass(Enum):
    """What kind of machine a node is; the values are stable names."""

    SERVER = "server"
    DESKTOP = "desktop"
    LAPTOP = "laptop"
    PHONE = "phone"


@dataclass(frozen=True)
class Settings:
    """When a node may work. The defaults here are those of a server: always.

    Percentages are of the battery's charge; 0 switches a threshold off. Each pair has a gap, so that nothing flaps:
    what stopped at one value begins again only at the other.
    """

    charging_only: bool = False
    battery_start_percent: int = 0
    battery_stop_percent: int = 0
    battery_temperature_stop_celsius: float = 0.0
    battery_temperature_resume_celsius: float = 0.0
    cpu_temperature_stop_celsius: float = 0.0
    cpu_temperature_resume_celsius: float = 0.0
    unmetered_only: bool = False
    quiet_hours: str = ""  # "22:00-07:00", in the node's own time; empty: none
    idle_minutes: int = 0
    work_when_unknown: bool = True
    dwell_seconds: int = 60  # the shortest rest
    drain_seconds: int = 300  # for tasks and results to leave before the workers are stopped

    @property
    def needs_battery(self) -> bool:
        """Whether the battery's charge decides."""
        return self.charging_only or self.battery_start_percent > 0 or self.battery_stop_percent > 0

    @property
    def needs_temperature(self) -> bool:
        """Whether a temperature decides."""
        return self.battery_temperature_stop_celsius > 0 or self.cpu_temperature_stop_celsius > 0


KEYS = tuple(field.name for field in fields(Settings))
_RANGES: Mapping[str, tuple[float, float]] = {
    "battery_start_percent": (0, 100),
    "battery_stop_percent": (0, 99),
    "battery_temperature_stop_celsius": (0, 80),
    "battery_temperature_resume_celsius": (0, 80),
    "cpu_temperature_stop_celsius": (0, 120),
    "cpu_temperature_resume_celsius": (0, 120),
    "idle_minutes": (0, 1440),
    "dwell_seconds": (0, 3600),
    "drain_seconds": (5, 86400),
}
_ON_BATTERY = Settings(
    charging_only=True,
    battery_start_percent=80,
    battery_stop_percent=60,
    battery_temperature_stop_celsius=42.0,
    battery_temperature_resume_celsius=38.0,
)
_DEFAULTS: Mapping[MachineClass, Settings] = {
    MachineClass.SERVER: Settings(),
    MachineClass.DESKTOP: Settings(),
    MachineClass.LAPTOP: _ON_BATTERY,
    MachineClass.PHONE: replace(_ON_BATTERY, unmetered_only=True, work_when_unknown=False, drain_seconds=120),
}


def defaults(machine: MachineClass) -> Settings:
    """Return what holds for a class of machines when nobody said anything else."""
    return _DEFAULTS[machine]


def quiet_minutes(text: str) -> tuple[int, int] | None:
    """Return begin and end of quiet hours in minutes of the day; None when there are none, or it says no such thing."""
    match = _HOURS.fullmatch(text)
    if match is None:
        return None
    begin, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    return None if begin == end else (begin, end)


def parse_value(key: str, text: str) -> bool | int | float | str:
    """Return a setting's value as a person wrote it.

    Raises:
        BadPolicy: there is no such setting, or the value is none that it may have.
    """
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Settings)}
    if key not in kinds:
        raise _bad(key, text, f"there is no such setting; there are {', '.join(KEYS)}")
    kind, word = kinds[key], text.strip().lower()
    if kind is bool:
        return _switch(key, word, text)
    if kind is str:
        return _quiet(key, word, text)
    return _number(key, kind, word, text)


def _switch(key: str, word: str, text: str) -> bool:
    if word not in _TRUE + _FALSE:
        raise _bad(key, text, "must be true or false")
    return word in _TRUE


def _quiet(key: str, word: str, text: str) -> str:
    if word in ("", "off", "none"):
        return ""
    if quiet_minutes(word) is None:
        raise _bad(key, text, "must be two different times of the day, like 22:00-07:00, or off")
    return word


def _number(key: str, kind: type[int] | type[float], word: str, text: str) -> int | float:
    least, most = _RANGES[key]
    allowed = f"must be {'a whole number' if kind is int else 'a number'} from {least:g} to {most:g}"
    if word == "off" and not least:
        return kind(0)
    if re.fullmatch(r"\d{1,6}" if kind is int else r"\d{1,6}(\.\d{1,3})?", word, re.ASCII) is None:
        raise _bad(key, text, allowed + (", or off" if not least else ""))
    if not least <= float(word) <= most:
        raise _bad(key, text, allowed)
    return kind(word)


def written(value: bool | float | str) -> str:
    """Return a value as `parse_value` reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, int | float) else value or "off"


def overlaid(settings: Settings, values: Mapping[str, str]) -> Settings:
    """Return the settings with these values in place of their own; what cannot be read is left out."""
    known: dict[str, Any] = {}
    for key, text in values.items():
        try:
            known[key] = parse_value(key, text)
        except BadPolicy:  # written by a newer version
            continue
    return replace(settings, **known)


def check_pairs(settings: Settings) -> None:
    """Check what two settings say together.

    Raises:
        BadPolicy: a pair leaves no gap, so that the node would change its mind all the time.
    """
    start, stop = settings.battery_start_percent, settings.battery_stop_percent
    if stop and stop >= start:
        reason = f"must be below battery_start_percent, which is {start}"
        raise _bad("battery_stop_percent", written(stop), reason)
    for what in ("battery", "cpu"):
        hot, cool = (getattr(settings, f"{what}_temperature_{end}_celsius") for end in ("stop", "resume"))
        if hot and not 0 < cool < hot:
            reason = f"must be above 0 and below {what}_temperature_stop_celsius, which is {written(hot)}"
            raise _bad(f"{what}_temperature_resume_celsius", written(cool), reason)


def _bad(key: str, value: str, reason: str) -> BadPolicy:
    return BadPolicy(key=key[:_SHOWN], value=repr(value[:_SHOWN]), reason=reason)
