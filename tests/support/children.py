"""Programs that a test starts and ends, each in a process group of its own and with its output in a file."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 20.0
_STEP_SECONDS = 0.05


class Child:
    """One program. `log` has what it said, of all its runs."""

    def __init__(
        self, command: Sequence[str], log: Path, *,
        variables: Mapping[str, str] | None = None, directory: Path | None = None,
    ) -> None:  # fmt: skip
        """`variables`: its whole environment; without them it has ours."""
        self._command, self.log, self._variables, self._directory = list(command), log, variables, directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._variables, cwd=self._directory, start_new_session=True,
            )  # fmt: skip

    def wait_until(self, ready: Callable[[], object], seconds: float) -> None:
        """Return when the condition holds; fail with what it said when it ends before or the time is over."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.runs or time.monotonic() > deadline:
                raise AssertionError(f"{self._command[0]} is not ready: {self.said()}")
            time.sleep(_STEP_SECONDS)

    def said(self) -> str:
        """Return the end of what it said."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def kill(self) -> None:
        """End it and its own children as a power cut would."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """Ask it to end; kill it when it does not in time, and what it left in its group."""
        if self.runs:
            assert self._process is not None
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):  # nobody is left in its group
            os.killpg(self._process.pid, number)
