"""Makes samples: quick collectors with each heartbeat, slow ones in a thread at their own pace."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from clusterai.v1.types_pb2 import CollectorReport, Sample
from clusterai_agent.collectors.api import Collector, NoData

log = logging.getLogger(__name__)

SLOW_SECONDS = 0.1  # a quick collector that takes longer is reported
STUCK_SECONDS = 20.0  # a slow collector that has not come back by then is reported
_REASON_LIMIT = 200
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 60.0
_FAILURES = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError)


@dataclass
class _Slow:
    """A slow collector, its latest reading, and when the next is due."""

    collector: Collector
    latest: Sample = field(default_factory=Sample)
    due: float = 0.0
    running_since: float | None = None


class Sampler:
    """All collectors behind one call. A failing one costs its own values and is reported in the sample."""

    def __init__(self, collectors: Iterable[Collector], clock: Callable[[], float] = time.monotonic) -> None:
        collectors = list(collectors)
        self._quick = [collector for collector in collectors if not collector.every_seconds]
        self._slow = [_Slow(collector) for collector in collectors if collector.every_seconds]
        self._clock = clock
        self.absent: tuple[tuple[str, str], ...] = ()  # collector and reason, as of the last sample

    def sample(self) -> Sample:
        """Return a reading of everything, with the latest values of the slow collectors.

        What the machine does not have is left out: `absent` names it, and the facts tell it once.
        """
        sample = Sample(taken_unix_seconds=time.time())
        for collector in self._quick:
            started = self._clock()
            read_into(collector, sample)
            if (took := self._clock() - started) > SLOW_SECONDS:
                _report(sample, collector.name, f"took {took:.1f} s")
        for slow in self._slow:
            sample.MergeFrom(slow.latest)
            if slow.running_since is not None and (since := self._clock() - slow.running_since) > STUCK_SECONDS:
                _report(sample, slow.collector.name, f"has not answered for {since:.0f} s; the values are old")
        self.absent = tuple((report.collector, report.reason) for report in sample.collectors if report.no_data)
        failed = [report for report in sample.collectors if not report.no_data]
        del sample.collectors[:]
        sample.collectors.extend(failed)
        return sample

    async def read_slow_ones(self) -> None:
        """Keep the slow collectors' values fresh. A stuck one holds up the others, never a heartbeat."""
        while True:
            for slow in self._slow:
                if self._clock() >= slow.due:
                    await self._refresh(slow)
            next_due = min((slow.due for slow in self._slow), default=self._clock() + _LONGEST_PAUSE)
            await asyncio.sleep(max(_SHORTEST_PAUSE, next_due - self._clock()))

    async def _refresh(self, slow: _Slow) -> None:
        slow.running_since = self._clock()
        fresh = Sample()
        try:
            await asyncio.to_thread(read_into, slow.collector, fresh)
        finally:
            slow.running_since = None
        slow.latest, slow.due = fresh, self._clock() + slow.collector.every_seconds


def read_into(collector: Collector, sample: Sample) -> None:
    """Let the collector fill the sample; turn any failure into a report: a sensor never costs a heartbeat."""
    try:
        collector.collect(sample)
    except NoData as error:
        _report(sample, collector.name, str(error), no_data=True)
    except _FAILURES as error:
        log.debug("collector %s failed", collector.name, exc_info=True)
        _report(sample, collector.name, f"{type(error).__name__}: {error}")


def _report(sample: Sample, name: str, reason: str, *, no_data: bool = False) -> None:
    sample.collectors.append(CollectorReport(collector=name, no_data=no_data, reason=reason[:_REASON_LIMIT]))
