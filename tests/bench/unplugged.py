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

ROUNDS = 3  # by turns: a phone changes between rest and work at most 4 times an hour
_LOOKS_SECONDS = 4.0
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
    async with _two_phones(directory, debs) as (cluster, phones):
        return [await _unplugged(cluster, phones, number) for number in range(ROUNDS)]


async def _unplugged(cluster: PhonesCluster, phones: Mapping[str, Phone], number: int) -> float:
    """Unplug one while both work; return how many seconds it takes until it rests, and plug it in again."""
    for name in phones:
        await cluster.main.until(name, "ready", 1)
    name, phone = list(phones.items())[number % 2]
    async with cluster.main.client(_WORK, "mobile") as client:
        await client.said()
        await asyncio.sleep(number * _LOOKS_SECONDS / ROUNDS)  # at another moment between two looks at the battery
        began = time.monotonic()
        phone.battery(plugged="UNPLUGGED", status="DISCHARGING")
        await cluster.main.until(name, "resting", 0)
        seconds = time.monotonic() - began
    phone.battery()
    return seconds


@asynccontextmanager
async def _two_phones(
    directory: Path, debs: Mapping[str, Path]
) -> AsyncIterator[tuple[PhonesCluster, Mapping[str, Phone]]]:
    """Run a cluster of a server and two phones; the second takes what the first one had."""
    places = [directory / name for name in ("cluster", "pixel", "galaxy")]
    for place in places:
        place.mkdir()
    async with AsyncExitStack() as parts:
        cluster = await parts.enter_async_context(phones_cluster(places[0], debs))
        phones = {place.name: parts.enter_context(Phone.on(place)) for place in places[1:]}
        for name, phone in phones.items():
            await cluster.join(phone, name)
        yield cluster, phones
