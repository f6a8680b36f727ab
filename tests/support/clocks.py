"""A wall clock that is wrong, made with libfaketime for single programs or for a whole simulated phone."""

from pathlib import Path
from typing import Any

from support.termux import PREFIX, Phone

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_TIMERS_GO_ON = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DISABLE_SHM": "1"}
_FILE = "var/phone/clock"


def shifted(shift: str) -> dict[str, str]:
    """Return the variables that shift a program's wall clock, such as by "-1d"; its timers go on as they are."""
    return {"LD_PRELOAD": str(LIBRARY), "FAKETIME": shift, **_TIMERS_GO_ON}


def with_own_clock() -> dict[str, Any]:
    """Return the options of a phone whose clock `set_clock` sets, under programs that run already too."""
    variables = {
        "LD_PRELOAD": f"/mnt/faketime/{LIBRARY.name}", "FAKETIME_TIMESTAMP_FILE": f"{PREFIX}/{_FILE}",
        "FAKETIME_CACHE_DURATION": "1", **_TIMERS_GO_ON,
    }  # fmt: skip
    return {"shown": {"faketime": LIBRARY.parent}, "variables": variables}


def set_clock(phone: Phone, shift: str) -> None:
    """Shift the wall clock of a phone that has its own; "+0" is right."""
    phone.write(_FILE, f"{shift}\n")
