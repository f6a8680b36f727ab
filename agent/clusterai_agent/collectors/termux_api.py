"""Termux:API: what its programs tell of the phone's battery and Wi-Fi. The only module that starts them."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clusterai_agent.collectors.api import NoData

ANSWER_SECONDS = 3.0  # without its app a program hangs
WORKING_SECONDS, RESTING_SECONDS = 4.0, 30.0  # who works must hear soon that the charger was pulled
_GOOD_SECONDS = 60.0  # an answer counts so long: a phone that sleeps misses one now and then
_LIMIT = 1 << 16
_INSTALL = "Termux:API is not here: install its app, and `pkg install termux-api`"


class Nonsense(ValueError):
    """An answer that cannot be one."""


class ApiProgram:
    """One program that prints a JSON object. Its latest answer is kept, so that asking often starts it seldom."""

    def __init__(self, program: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._program, self._clock = program, clock
        self._asking = threading.Lock()
        self._answer: Mapping[str, Any] = {}
        self._asked = self._answered = float("-inf")
        self._failure = ""
        self.pace_seconds = RESTING_SECONDS

    def read(self) -> Mapping[str, Any]:
        """Return the latest answer; raise NoData when there was none for a minute."""
        with self._asking:
            if self._clock() - self._asked >= self.pace_seconds:
                self._ask()
            if self._clock() - self._answered > _GOOD_SECONDS:
                raise NoData(self._failure)
            return self._answer

    def _ask(self) -> None:
        try:
            self._answer, self._answered = self._parsed(_output(self._program)), self._clock()
        except FileNotFoundError:
            self._failure = _INSTALL
        except (OSError, Nonsense, RecursionError) as error:
            self._failure = f"{self._program.name}: {error}"
        self._asked = self._clock()

    def _parsed(self, output: bytes) -> Mapping[str, Any]:
        if not output.strip():
            raise Nonsense(f"no answer within {ANSWER_SECONDS:g} s; is the app Termux:API installed?")
        try:
            answer = json.loads(output)
        except ValueError as error:
            raise Nonsense(f"not JSON: {output[:60].decode(errors='replace')!r}") from error
        if not isinstance(answer, dict):
            raise Nonsense("not a JSON object")
        return answer


class Phone:
    """What Termux:API tells of this phone."""

    def __init__(self, prefix: Path) -> None:
        self.battery = ApiProgram(prefix / "bin/termux-battery-status")
        self.wifi = ApiProgram(prefix / "bin/termux-wifi-connectioninfo")

    def set_pace(self, *, working: bool) -> None:
        """Ask more often while the phone works: it is charging then."""
        self.battery.pace_seconds = self.wifi.pace_seconds = WORKING_SECONDS if working else RESTING_SECONDS


def _output(program: Path) -> bytes:
    """Return what the program prints; after its time it is killed with its children. Raises OSError."""
    process = subprocess.Popen(
        [program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    over = threading.Timer(ANSWER_SECONDS, _kill, [process.pid])
    over.start()
    try:
        assert process.stdout is not None
        return process.stdout.read(_LIMIT)
    finally:
        over.cancel()
        over.join()
        _kill(process.pid)  # it was not waited for yet, so the number is still its own
        process.communicate()


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
