"""Reading a process's costs from /proc, and stating a result."""

import json
import os
import random
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


@dataclass(frozen=True)
class Memory:
    """What a process's resident memory is made of, in bytes: its own, mapped files, and what it alone has of both."""

    anonymous_bytes: int
    file_bytes: int
    private_bytes: int

    @classmethod
    def of(cls, process_id: int) -> "Memory":
        """Read /proc/PID/smaps_rollup."""
        lines = _read(Path(f"/proc/{process_id}/smaps_rollup")).splitlines()[1:]
        kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
        anonymous = kilobytes["Anonymous"]
        private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
        return cls(anonymous * 1024, (kilobytes["Rss"] - anonymous) * 1024, private * 1024)

    def __str__(self) -> str:
        parts = (self.anonymous_bytes / 1e6, self.file_bytes / 1e6, self.private_bytes / 1e6)
        return "{:.1f} MB of its own, {:.1f} MB of files; {:.1f} MB of both is nobody else's".format(*parts)


@dataclass(frozen=True)
class Machine:
    """What all processors together have done: seconds busy, and seconds taken by other machines on the same host."""

    busy_seconds: float
    stolen_seconds: float

    @classmethod
    def now(cls) -> "Machine":
        """Read the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal."""
        with Path("/proc/stat").open() as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
        return cls((user + nice + system + irq + softirq) / _TICKS, steal / _TICKS)


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


def interval_of_mean(values: Sequence[float], confidence: float = 0.95, resamples: int = 2000) -> tuple[float, float]:
    """Return the bounds between which the true mean lies with that confidence (percentile bootstrap, Efron 1979)."""
    chance = random.Random(0)
    means = [statistics.fmean(chance.choices(values, k=len(values))) for _ in range(resamples)]
    rest = (1 - confidence) / 2
    return quantile(means, rest), quantile(means, 1 - rest)


def as_json(figures: Sequence[Figure]) -> str:
    """Return the figures for a machine."""
    return json.dumps([{**asdict(figure), "kept": figure.kept} for figure in figures], indent=2)
