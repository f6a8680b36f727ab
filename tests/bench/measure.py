"""Reading a process's costs from /proc, and stating a result."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Costs:
    """What a process has used: CPU seconds, resident and private memory in bytes, bytes written to disk."""

    cpu_seconds: float
    rss_bytes: int
    written_bytes: int
    voluntary_switches: int

    @classmethod
    def of(cls, process_id: int) -> "Costs":
        """Read /proc/PID. CPU time comes from the scheduler (nanoseconds), not from ticks of 10 ms."""
        proc = Path(f"/proc/{process_id}")
        nanoseconds = sum(int(_read(task / "schedstat").split()[0]) for task in (proc / "task").iterdir())
        status = dict(line.split(":", 1) for line in _read(proc / "status").splitlines())
        io = dict(line.split(": ") for line in _read(proc / "io").splitlines())
        return cls(
            cpu_seconds=nanoseconds / 1e9,
            rss_bytes=int(status["VmRSS"].split()[0]) * 1024,
            written_bytes=int(io["write_bytes"]),
            voluntary_switches=int(status["voluntary_ctxt_switches"]),
        )


def _read(path: Path) -> str:
    return path.read_text()


def cpu_of(process_id: int) -> float:
    """Return the CPU seconds of all threads of a process, ended ones too, in steps of 10 ms."""
    fields = _read(Path(f"/proc/{process_id}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass(frozen=True)
class Figure:
    """One measured figure: what, its value, what it is compared with, and the limit that it has to keep."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    baseline: float | None = None
    detail: str = ""

    @property
    def kept(self) -> bool:
        """Whether the limit is kept; a figure without a limit always is."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        limit = f"{sign} {self.limit:g}" if self.limit is not None else ""
        verdict = "" if self.limit is None else ("kept" if self.kept else "NOT KEPT")
        return f"  {self.name:46} {self.value:10.4g} {self.unit:8} {limit:8} {verdict:9} {self.detail}".rstrip()


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which the share (0..1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return float(statistics.median(values))


def as_json(figures: Sequence[Figure]) -> str:
    """Return the figures for a machine."""
    return json.dumps([{**asdict(figure), "kept": figure.kept} for figure in figures], indent=2)
