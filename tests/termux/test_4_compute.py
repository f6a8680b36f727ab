"""Phones compute in the pool `mobile`, beside a server in `main`: Dask, its scheduler and the census, all real."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.census import groups, make_tree, reference
from support.phones_cluster import PhonesCluster, phones_cluster
from support.termux import HOME, Phone
from support.tree import ROOT
from support.waiting import until

TREE = f"{HOME}/tree"
CENSUS, CONNECT = str(ROOT / "examples/census.py"), "from distributed import Client; Client()"
WAIT_SECONDS = 90.0
ALERTS = {"node-suspect", "node-offline", "node-rest-forced"}
# Work for the tower while the phones have theirs.
IN_MAIN = """
def slow(number):
    time.sleep(0.2)
    return [number, get_worker().name]
tasks = client.map(slow, range(20))
wait(tasks[:1])
say("computing")
hear()
results = client.gather(tasks)
say([[number for number, _ in results], sorted({name for _, name in results})])
"""
# Tasks of a second for both phones until one of them is gone, and a result that only that one has.
SECONDS_LONG = """
from collections import Counter
def slow(number):
    time.sleep(1)
    get_worker().log_event("ended", number)
    return [number, get_worker().name]
def names():
    return client.run_on_scheduler(lambda dask_scheduler: [one.name for one in dask_scheduler.workers.values()])
held = client.submit(slow, 99, workers=["pixel-0"], allow_other_workers=False)
wait(held)
tasks = []
def more():
    if sum(not task.done() for task in tasks) < 16:
        tasks.extend(client.map(slow, range(len(tasks), len(tasks) + 16), pure=False))
more()
while sum(task.done() for task in tasks) < 4:
    time.sleep(0.05)
say("computing")
while "pixel-0" in names():
    more()
    time.sleep(0.05)
results = client.gather(tasks)
ended = Counter(number for _, number in client.get_events("ended"))
say({
    "results": [number for number, _ in results], "submitted": list(range(len(tasks))), "held": held.result(),
    "names": sorted({name for _, name in results}),
    "ended twice": [number for number, count in ended.items() if count > 1],
})
"""
# A job that goes on; between its parts it says who computes.
UNTIL_TOLD = """
def slow(number):
    time.sleep(0.3)
    return number * number
tasks = client.map(slow, range(20), pure=False)
wait(tasks[:1])
say("computing")
for _ in range(2):
    hear()
    tasks += client.map(slow, range(len(tasks), len(tasks) + 20), pure=False)
    wait(tasks[-20:-18])
    say(sorted(set(client.run(lambda dask_worker: dask_worker.name).values())))
hear()
say(client.gather(tasks))
"""


@pytest.fixture
async def scene(debs: dict[str, Path]) -> AsyncIterator[PhonesCluster]:
    with tempfile.TemporaryDirectory() as directory:
        async with phones_cluster(Path(directory), debs) as running:
            yield running


async def test_a_phone_joins_by_its_line_and_computes_a_census_while_main_computes_too(
    scene: PhonesCluster, phone: Phone, tmp_path: Path
) -> None:
    main, ctl = scene.main, scene.main.ctl
    unplug(phone, 41)
    make_tree(phone.at(TREE))
    await scene.publish()
    line = (await ctl("token", "create", "--phone", "--name", "pixel")).out.strip()
    done = await asyncio.to_thread(phone.ask, line, "y\n")
    assert done.returncode == 0, done.stdout

    await main.until("pixel", "resting", 0)
    listed = " ".join((await ctl("node", "list")).out.split())
    assert "on battery, 41 %; works from 80 % while charging" in listed
    phone.battery()  # full enough, and a charger
    await main.until("pixel", "ready", 1)
    assert await scene.workers() == {"tower-0": ("main", "registered"), "pixel-0": ("mobile", "registered")}
    async with main.client(IN_MAIN) as client:
        assert await client.said() == "computing"
        found = json.loads(await as_user(scene, tmp_path, scene.main.mobile, CENSUS, TREE, "--json", "--out", "-"))
        refused = await as_user(scene, tmp_path, scene.main.environment, "-c", CONNECT)
        assert "ImportError: the pool mobile runs Python 3.14, and this client runs Python 3." in refused
        client.tell()
        assert await client.said() == [list(range(20)), ["tower-0"]]
    (machine,) = found["machines"]
    expected = reference(phone.at(TREE))
    assert (machine["files"], machine["bytes"], machine["unreadable"]) == (expected.files, expected.size, 0)
    # Which name of a hard link is reported is open.
    links = {f"{TREE}/big-a", f"{TREE}/hard-link-of-big-a"}
    on_the_phone = {frozenset(path.removeprefix(str(phone.directory)) for path in group) for group in expected.groups}
    assert {group - links for group in groups(found)} == {group - links for group in on_the_phone}


async def as_user(scene: PhonesCluster, directory: Path, environment: Path, *words: str) -> str:
    """Run Python as a client of the phones' pool, in an environment; return what it says, else its complaints."""
    create = await scene.main.ctl("dask", "env", "--pool", "mobile", "--create", str(scene.main.mobile))
    assert create.code == 0, create.err
    (directory / "phones.env").write_text(create.out)
    command = ("sh", "-c", '. ./phones.env; exec "$@"', "sh", str(environment / "bin/python"), *words)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        out, errors = await process.communicate()
    return out.decode() or errors.decode()


async def test_unplugged_in_mid_task_a_phone_rests_and_another_goes_on_with_what_it_had(
    scene: PhonesCluster, tmp_path: Path
) -> None:
    main = scene.main
    (tmp_path / "b").mkdir()
    with Phone.on(tmp_path) as pixel, Phone.on(tmp_path / "b") as galaxy:
        for phone, name in ((pixel, "pixel"), (galaxy, "galaxy")):
            await scene.join(phone, name)
            await main.until(name, "ready", 1)
        async with main.client(SECONDS_LONG, "mobile") as client:
            assert await client.said() == "computing"
            unplug(pixel, 84)
            await main.until("pixel", "resting", 0)
            told = await client.said()
        assert told["results"] == told["submitted"]
        assert told["names"] == ["galaxy-0", "pixel-0"]
        assert told["ended twice"] == []
        assert told["held"] == [99, "pixel-0"], "what only that phone had was moved, not computed again"
        assert not ALERTS & {*await scene.kinds("pixel"), *await scene.kinds("galaxy")}
        assert (await main.ctl("node", "show", "pixel", "--json")).data["state"] == "resting"
        await until(lambda: not workers(pixel))


async def test_killed_processes_of_a_phone_come_back_and_the_job_ends_right(
    scene: PhonesCluster, phone: Phone
) -> None:
    main = scene.main
    await scene.join(phone, "pixel")
    await main.until("pixel", "ready", 1)
    async with main.client(UNTIL_TOLD, "mobile") as client:
        assert await client.said() == "computing"
        for victims in ((workers,), (agents, workers)):
            await kill(phone, [process_id for ours in victims for process_id in ours(phone)])
            client.tell()
            assert await client.said() == ["pixel-0"]
        client.tell()
        results = await client.said()
    assert results == [number * number for number in range(len(results))]
    assert (len(agents(phone)), len(workers(phone))) == (1, 1)
    await main.until("pixel", "ready", 1)
    assert await scene.workers("--pool", "mobile") == {"pixel-0": ("mobile", "registered")}


async def kill(phone: Phone, process_ids: list[int]) -> None:
    """End them as Android does; return when there is a worker again."""
    for process_id in process_ids:
        with suppress(ProcessLookupError):  # a worker ends with its agent
            os.kill(process_id, signal.SIGKILL)
    await until(lambda: workers(phone) and not {*process_ids} & {*phone.processes()}, WAIT_SECONDS)


def unplug(phone: Phone, percentage: int) -> None:
    phone.battery(plugged="UNPLUGGED", status="DISCHARGING", percentage=percentage)


def agents(phone: Phone) -> list[int]:
    """Return the agent's processes, the helpers that it starts for a moment apart."""
    return [number for number, words in phone.processes().items() if words[-1:] == ["run"] and "python3" in words[0]]


def workers(phone: Phone) -> list[int]:
    return [number for number, words in phone.processes().items() if "distributed.cli.dask_worker" in words]
