"""Values as people read them: sizes, spans of time, moments, names of states."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DOWNLOADS = ("B", "kB", "MB", "GB", "TB", "PB")
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"))
UNKNOWN = "unknown"
_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?")  # ECMA-48: CSI, OSC, others


def printable(text: str) -> str:
    """Return the text as one line without control characters: what a node sends never drives the terminal."""
    shown = _SEQUENCE.sub("", text)
    return "".join(character if character.isprintable() else " " for character in shown).strip()


def size(count: float) -> str:
    """Return a number of bytes as `512 MiB` or `62.1 GiB`; `-` for none."""
    return _scaled(count, 1024, _SIZES)


def download_size(count: float) -> str:
    """Return a number of bytes in powers of 1000, `815 MB` or `2.0 GB`, as Ollama shows models; `-` for none."""
    return _scaled(count, 1000, _DOWNLOADS)


def _scaled(count: float, step: int, units: Sequence[str]) -> str:
    if count <= 0:
        return "-"
    unit = 0
    while count >= step and unit < len(units) - 1:
        count, unit = count / step, unit + 1
    return f"{count:.0f} {units[unit]}" if count >= 100 or unit == 0 else f"{count:.1f} {units[unit]}"


def span(seconds: float) -> str:
    """Return a length of time in one unit, rounded down: `12 s`, `5 min`, `3 h`, `4 d`."""
    for length, unit in _SPANS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def ago(then: float, now: float) -> str:
    """Return how long ago a Unix time was; `never` for none."""
    return f"{span(now - then)} ago" if then > 0 else "never"


def until(then: float, now: float) -> str:
    """Return `in 12 min` or `3 min ago`; `never` for none."""
    return f"in {span(then - now)}" if then > now else ago(then, now)


def moment(unix_seconds: float) -> str:
    """Return a Unix time in this machine's time zone, to the second."""
    return datetime.fromtimestamp(unix_seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def plural(count: int, noun: str) -> str:
    """Return `1 node`, `2 nodes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(words: Sequence[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else "".join(words)


def word(enum: Any, value: int) -> str:
    """Return an enum value's stable name: `NODE_STATE_READY` is `ready`, a newer peer's value `unknown`."""
    return enum_word(enum.DESCRIPTOR, value)


def enum_word(descriptor: Any, value: int) -> str:
    """The same from the enum's descriptor."""
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    known = descriptor.values_by_number.get(value)
    if known is None or value == 0:
        return UNKNOWN
    name: str = known.name
    return name.removeprefix(prefix).lower().replace("_", "-")
