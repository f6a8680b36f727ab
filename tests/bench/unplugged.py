"""A simulated phone that is unplugged in mid-task: how long until its work has left and it rests. Needs root."""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.measure import Figure, median
from support.phones_cluster import PhonesCluster, phones_cluster
from support.termux import Phone
from support.tree import ROOT

ROUNDS = 4
# Tasks of a second for both phones, always more of them than they have threads.
_WORK = """
def slow(number):
    time.sleep(1)
    return number
tasks = client.map(slow, range(16), pure=False)
wait(tasks[:1])
say("computing")
while True:
    tasks = [task for task in tasks if not task.done()]
    tasks += client.map(slow, range(16 - len(tasks)), pure=False)
    time.sleep(0.1)
"""


def measure() -> Iterator[Figure]:
    """Yield the slowest of some rounds: the phone looks at its battery every 4 s, so each is another."""
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name:
        debs = Path(name, "debs")
        build = [str(ROOT / "scripts/build-termux"), "-o", str(debs)]
        subprocess.run(build, check=True, timeout=600, stdout=subprocess.DEVNULL)
        seconds = asyncio.run(_rounds(Path(name), {deb.name.partition("_")[0]: deb for deb in debs.glob("*.deb")}))
    listed = ", ".join(f"{one:.1f}" for one in sorted(seconds))
    detail = f"tasks of 1 s, {ROUNDS} times: {listed}; median {median(seconds):.1f}"
    yield Figure("a phone unplugged in mid-task, until it is drained and rests", max(seconds), "s", 10, detail=detail)


async def _rounds(directory: Path, debs: Mapping[str, Path]) -> list[float]:
    async with _two_phones(directory, debs) as (cluster, pixel):
        seconds = []
        for number in range(ROUNDS):
            pixel.battery()
            await cluster.main.until("pixel", "ready", 1)
            async with cluster.main.client(_WORK, "mobile") as client:
                await client.said()
                await asyncio.sleep(number * 4 / ROUNDS)  # at another moment between two looks at the battery
                began = time.monotonic()
                pixel.battery(plugged="UNPLUGGED", status="DISCHARGING")
                await cluster.main.until("pixel", "resting", 0)
                seconds.append(time.monotonic() - began)
        return seconds


@asynccontextmanager
async def _two_phones(directory: Path, debs: Mapping[str, Path]) -> AsyncIterator[tuple[PhonesCluster, Phone]]:
    """Run a cluster of a server and two phones; the second takes what the first one had."""
    places = [directory / name for name in ("cluster", "pixel", "galaxy")]
    for place in places:
        place.mkdir()
    async with AsyncExitStack() as parts:
        cluster = await parts.enter_async_context(phones_cluster(places[0], debs))
        phones = [parts.enter_context(Phone.on(place)) for place in places[1:]]
        for phone, place in zip(phones, places[1:], strict=True):
            await cluster.join(phone, place.name)
            await cluster.main.until(place.name, "ready", 1)
        yield cluster, phones[0]
