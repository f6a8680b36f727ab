"""The runner: one broken sensor never costs a heartbeat."""

import asyncio
import threading

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors.api import NoData
from clusterai_agent.sampling import Sampler
from support.waiting import until


class Made:
    """A collector that does what a test says."""

    def __init__(self, name: str, error: Exception | None = None, every: float = 0.0) -> None:
        self.name, self.every_seconds, self.error = name, every, error
        self.count = 0

    def collect(self, sample: Sample) -> None:
        self.count += 1
        if self.error:
            raise self.error
        sample.load_1min = self.count


def test_a_failing_collector_is_reported_and_the_others_still_read() -> None:
    collectors = [Made("broken", OSError(5, "I/O error")), Made("absent", NoData("none here")), Made("good")]
    sampler = Sampler(collectors)
    sample = sampler.sample()
    assert sample.load_1min == 1
    reports = {report.collector: (report.no_data, report.reason) for report in sample.collectors}
    assert reports == {"broken": (False, "OSError: [Errno 5] I/O error")}
    assert sampler.absent == (("absent", "none here"),), "named once, in the facts: each byte of a heartbeat counts"


def test_a_slow_quick_collector_is_reported_with_its_time() -> None:
    times = iter([0.0, 0.5])
    sample = Sampler([Made("cpu")], clock=lambda: next(times)).sample()
    assert [report.reason for report in sample.collectors] == ["took 0.5 s"]


async def test_slow_collectors_run_at_their_own_pace_and_their_values_stay() -> None:
    slow = Made("gpu", every=60)
    sampler = Sampler([slow])
    assert sampler.sample().load_1min == 0
    reading = asyncio.create_task(sampler.read_slow_ones())
    await until(lambda: sampler.sample().load_1min == 1)
    await asyncio.sleep(0.05)
    assert (sampler.sample().load_1min, slow.count) == (1, 1)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_stuck_collector_is_reported_and_holds_up_no_sample() -> None:
    release = threading.Event()

    class Stuck(Made):
        def collect(self, sample: Sample) -> None:
            release.wait(10)

    now = [0.0]
    sampler = Sampler([Made("cpu"), Stuck("gpu", every=5)], clock=lambda: now[0])
    reading = asyncio.create_task(sampler.read_slow_ones())
    await asyncio.sleep(0.05)
    now[0] = 60.0
    sample = sampler.sample()
    assert sample.load_1min
    assert "has not answered for 60 s" in sample.collectors[0].reason
    release.set()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()
