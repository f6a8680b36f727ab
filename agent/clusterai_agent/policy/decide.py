"""Work or rest: one pure, total function from readings, settings and what was decided before."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from clusterai.policy import Settings, quiet_minutes

_HOUR, _DAY = 3600.0, 86400.0
MOST_CHANGES = 4  # within an hour
_CHARGED_PERCENT = 80  # when the settings name no charge to start at
WORKS = "works"


@dataclass(frozen=True)
class Pause:
    """The owner's word: rest until a Unix time, or until the battery is charged. `broken`: it cannot be read."""

    until: float = 0.0
    until_charged: bool = False
    broken: bool = False


@dataclass(frozen=True)
class Readings:
    """What is known now; None is unknown. `at` is a Unix time, charge 0..1, temperatures in degrees Celsius."""

    at: float
    utc_offset_seconds: float = 0.0
    charge: float | None = None
    plugged_in: bool | None = None
    battery_celsius: float | None = None
    cpu_celsius: float | None = None
    metered: bool | None = None
    idle_seconds: float | None = None
    pause: Pause | None = None


@dataclass(frozen=True)
class Memory:
    """What the next decision needs of this one. `changes` are the last Unix times of going to work or to rest."""

    works: bool
    since: float
    low: bool = False  # the battery must reach its start first
    hot: bool = False
    cpu_hot: bool = False
    changes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Decision:
    """`code` is a stable name, `sentence` for people; `unknown` is what was not taken into account."""

    works: bool
    code: str
    sentence: str
    memory: Memory
    unknown: tuple[str, ...] = ()
    pause_is_over: bool = False


@dataclass(frozen=True)
class _Because:
    """A reason to rest."""

    code: str
    sentence: str


@dataclass
class _Round:
    """One decision under way."""

    readings: Readings
    settings: Settings
    memory: Memory
    unknown: list[str] = field(default_factory=list)

    def missing(self, code: str, what: str) -> _Because | None:
        """Rest for lack of a reading, or note that it is not taken into account."""
        if self.settings.work_when_unknown:
            self.unknown.append(what)
            return None
        return _Because(code, f"{what} is not known here; work_when_unknown = true lets it work all the same")


def decide(readings: Readings, settings: Settings, before: Memory | None) -> Decision:
    """Return whether the node works. Rest begins at once; work only after the shortest rest, and never too often."""
    readings = _sane(readings)
    memory = _latched(readings, settings, _aged(before, readings.at) or _first(readings, settings))
    turn = _Round(readings, settings, memory)
    reasons = list(_reasons(turn))
    because = reasons[0] if reasons else None
    if because is None and before is not None and not memory.works:
        because = _too_soon(memory, readings, settings)
    works = because is None
    if before is not None and works != memory.works:
        changes = (*memory.changes, readings.at)[-MOST_CHANGES:]
        memory = replace(memory, works=works, since=readings.at, changes=changes)
    elif before is None:
        memory = replace(memory, works=works)
    pause_over = readings.pause is not None and _paused(turn) is None
    if because is None:
        return Decision(True, WORKS, _noted(turn.unknown), memory, tuple(turn.unknown), pause_over)
    return Decision(False, because.code, because.sentence, memory, tuple(turn.unknown), pause_over)


def _reasons(turn: _Round) -> Iterator[_Because]:
    """Yield every reason to rest, the one that people should hear first."""
    for look in (_paused, _battery, _hot, _cpu_hot, _metered, _quiet, _in_use):
        because = look(turn)
        if because is not None:
            yield because


def _first(readings: Readings, settings: Settings) -> Memory:
    """What there is to remember at the very first decision: a battery between the thresholds has not started yet."""
    charge = readings.charge
    low = charge is not None and settings.needs_battery and charge * 100 < settings.battery_start_percent
    return Memory(works=True, since=readings.at, low=low)


def _aged(memory: Memory | None, now: float) -> Memory | None:
    """Forget changes older than an hour; what lies in the future, because the clock was set back, is as of now."""
    if memory is None:
        return None
    changes = tuple(min(change, now) for change in memory.changes if math.isfinite(change) and change > now - _HOUR)
    return replace(memory, since=min(memory.since, now), changes=changes)


def _latched(readings: Readings, settings: Settings, memory: Memory) -> Memory:
    """Move the three latches: each closes at one threshold and opens only at the other."""
    return replace(
        memory,
        low=_low(readings, settings, memory.low),
        hot=_over(
            readings.battery_celsius,
            settings.battery_temperature_stop_celsius,
            settings.battery_temperature_resume_celsius,
            closed=memory.hot,
        ),
        cpu_hot=_over(
            readings.cpu_celsius,
            settings.cpu_temperature_stop_celsius,
            settings.cpu_temperature_resume_celsius,
            closed=memory.cpu_hot,
        ),
    )


def _low(readings: Readings, settings: Settings, closed: bool) -> bool:
    if not settings.needs_battery or readings.charge is None:
        return closed and settings.needs_battery
    percent = readings.charge * 100
    off_the_mains = settings.charging_only and readings.plugged_in is False
    below = settings.battery_stop_percent > 0 and percent <= settings.battery_stop_percent
    return below or ((closed or off_the_mains) and percent < settings.battery_start_percent)


def _over(celsius: float | None, stop: float, resume: float, *, closed: bool) -> bool:
    if stop <= 0:
        return False
    if celsius is None:
        return closed
    return celsius >= stop or (closed and celsius > resume)


def _paused(turn: _Round) -> _Because | None:
    pause, readings = turn.readings.pause, turn.readings
    if pause is None:
        return None
    if pause.broken:
        return _Because("paused", "paused by its owner; pause.json cannot be read: `clusterai-agent resume` removes it")
    if pause.until_charged:
        percent = turn.settings.battery_start_percent or _CHARGED_PERCENT
        if readings.plugged_in and readings.charge is not None and readings.charge * 100 >= percent:
            return None
        return _Because("paused", f"paused by its owner until the battery is charged to {percent} %")
    if readings.at >= pause.until:
        return None
    return _Because("paused", f"paused by its owner until {_clock(pause.until, readings)}")


def _battery(turn: _Round) -> _Because | None:
    readings, settings = turn.readings, turn.settings
    if not settings.needs_battery:
        return None
    if readings.charge is None or (settings.charging_only and readings.plugged_in is None):
        return turn.missing("battery-unknown", "the battery's charge")
    percent, start = math.floor(readings.charge * 100 + 0.5), settings.battery_start_percent
    from_start = f" from {start} %" if start else ""
    if settings.charging_only and not readings.plugged_in:
        return _Because("on-battery", f"on battery, {percent} %; works{from_start} while charging")
    if not turn.memory.low:
        return None
    where = "charging" if readings.plugged_in else "on battery"
    return _Because("battery-low", f"{where}, {percent} %; works{from_start or f' above {percent} %'}")


def _hot(turn: _Round) -> _Because | None:
    resume = turn.settings.battery_temperature_resume_celsius
    return _too_warm("battery-hot", "the battery", turn.readings.battery_celsius, resume) if turn.memory.hot else None


def _cpu_hot(turn: _Round) -> _Because | None:
    resume = turn.settings.cpu_temperature_resume_celsius
    return _too_warm("cpu-hot", "the processor", turn.readings.cpu_celsius, resume) if turn.memory.cpu_hot else None


def _too_warm(code: str, what: str, celsius: float | None, resume: float) -> _Because:
    now = "was too warm, and shows no temperature now" if celsius is None else f"is at {celsius:.0f} °C"
    return _Because(code, f"{what} {now}; works from {resume:g} °C down")


def _metered(turn: _Round) -> _Because | None:
    if not turn.settings.unmetered_only:
        return None
    if turn.readings.metered is None:
        return turn.missing("network-unknown", "whether the network is metered")
    return _Because("metered", "the network is metered") if turn.readings.metered else None


def _quiet(turn: _Round) -> _Because | None:
    hours = quiet_minutes(turn.settings.quiet_hours)
    if hours is None:
        return None
    (begin, end), now = hours, _second_of_day(turn.readings.at, turn.readings) // 60
    inside = begin <= now < end if begin < end else now >= begin or now < end
    return _Because("quiet-hours", f"quiet hours until {turn.settings.quiet_hours[6:]}") if inside else None


def _in_use(turn: _Round) -> _Because | None:
    minutes, idle = turn.settings.idle_minutes, turn.readings.idle_seconds
    if not minutes:
        return None
    if idle is None:
        return turn.missing("idle-unknown", "how long nobody used it")
    if idle >= minutes * 60:
        return None
    return _Because("in-use", f"in use; works when nobody used it for {minutes} min")


def _too_soon(memory: Memory, readings: Readings, settings: Settings) -> _Because | None:
    """A reason to rest on although nothing else speaks for it: so that a node never flaps.

    Going to work must leave room for going to rest at any time, so at most two other changes may lie within the hour.
    """
    ready = memory.since + settings.dwell_seconds
    if len(memory.changes) > MOST_CHANGES - 2:
        ready = max(ready, memory.changes[-(MOST_CHANGES - 1)] + _HOUR)
    if readings.at >= ready:
        return None
    return _Because("settling", f"rested only a moment ago; works from {_clock(ready, readings)}")


def _noted(unknown: list[str]) -> str:
    return f"not known here, so not taken into account: {', '.join(unknown)}" if unknown else ""


def _clock(at: float, readings: Readings) -> str:
    """Return a moment in the node's own time; the day in figures where it is another one."""
    second = _second_of_day(at, readings)
    shown = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    days = (at + readings.utc_offset_seconds) // _DAY - (readings.at + readings.utc_offset_seconds) // _DAY
    return f"{shown} in {days:g} days" if days > 1 else f"{shown} tomorrow" if days == 1 else shown


def _second_of_day(at: float, readings: Readings) -> int:
    return int((at + readings.utc_offset_seconds) % _DAY)


def _sane(readings: Readings) -> Readings:
    """Nonsense is unknown."""
    charge, warm, hot, pause = readings.charge, readings.battery_celsius, readings.cpu_celsius, readings.pause
    return replace(
        readings,
        pause=pause if pause is None or math.isfinite(pause.until) else Pause(broken=True),
        charge=charge if charge is not None and 0 <= charge <= 1 else None,
        battery_celsius=warm if warm is not None and -60 < warm < 200 else None,
        cpu_celsius=hot if hot is not None and -60 < hot < 200 else None,
    )
