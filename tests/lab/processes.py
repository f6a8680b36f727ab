"""Processes that the lab started, by their ids: a process is named by id and start time, so a reused id is another."""

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process of this machine, whoever its parent is."""

    id: int
    started: str

    @classmethod
    def of(cls, process_id: int) -> "Process":
        """Return the process that has the id now; its start time is empty when there is none."""
        return cls(process_id, _start_time(process_id))

    @classmethod
    def parse(cls, text: str) -> "Process":
        """Return what `str()` wrote."""
        process_id, _, started = text.partition(" ")
        return cls(int(process_id), started.strip())

    def __str__(self) -> str:
        return f"{self.id} {self.started}"

    @property
    def alive(self) -> bool:
        """Whether it runs still."""
        return bool(self.started) and _start_time(self.id) == self.started

    def children(self) -> list[int]:
        """Return the ids of its children."""
        found: list[int] = []
        for listing in Path(f"/proc/{self.id}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(word) for word in listing.read_text().split()]
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal if it is still there."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.id, number)

    def ended_within(self, seconds: float) -> bool:
        """Wait for its end; return whether it came."""
        if not self.alive:
            return True
        try:
            descriptor = os.pidfd_open(self.id)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)


def _start_time(process_id: int) -> str:
    """Field 22 of /proc/PID/stat (proc(5)); empty when the process is gone or a zombie."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
