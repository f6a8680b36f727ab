"""A real Dask pool through launch files and preloads: it computes, comes back, obeys holds, loses nothing."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterai.ids import UnitName
from clusteraid.dask_control import SchedulerAway, SchedulerRefused
from support.dask_env import dask_environment
from support.dask_pool import SCHEDULER, DaskPool, dask_pool, until, worker_unit


@pytest.fixture(scope="session")
def environment() -> Path:
    return dask_environment()


@pytest.fixture
async def pool(tmp_path: Path, environment: Path) -> AsyncIterator[DaskPool]:
    async with dask_pool(tmp_path, environment, "n-0", "m-0") as running:
        yield running


async def test_it_computes(pool: DaskPool) -> None:
    assert await pool.compute("say(sum(client.gather(client.map(lambda x: x * x, range(10)))))") == 285


async def test_a_worker_comes_back_after_its_scheduler_was_restarted(pool: DaskPool) -> None:
    """`dask worker` exits with 0 then."""
    before = await pool.units.status(worker_unit("n-0"))
    await pool.units.restart(SCHEDULER)
    await until(lambda: not pool.control.workers, "the scheduler is gone")
    await until(lambda: set(pool.control.workers) == {"n-0", "m-0"}, "both are registered again")
    after = await pool.units.status(worker_unit("n-0"))
    assert after.restart_count > before.restart_count
    assert await pool.compute("say(client.submit(sum, [1, 2]).result())") == 3


async def test_neither_speaks_without_tls_nor_without_a_certificate(pool: DaskPool) -> None:
    for address in (pool.address, pool.control.workers["n-0"].address):
        port = int(address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x00" * 64)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readexactly(1), 60)
        writer.close()
        anonymous = ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))
        anonymous.check_hostname = False
        with pytest.raises((ssl.SSLError, ConnectionError)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=anonymous)
            await asyncio.wait_for(reader.readexactly(1), 60)
    script = f"""
from distributed import Client as Plain
try:
    Plain("tcp://127.0.0.1:{pool.port}", timeout=3)
except Exception as error:
    say(type(error).__name__)
"""
    assert await pool.compute(script) in ("OSError", "TimeoutError", "RuntimeError", "CommClosedError")


STREAM = """
import random
where = lambda _: (time.sleep(0.05), get_worker().name)[1]
while True:
    futures = client.map(where, [random.random() for _ in range(8)])
    say(sorted(set(client.gather(futures))))
"""


async def test_a_held_worker_soon_gets_no_new_task_and_works_again_afterwards(pool: DaskPool) -> None:
    async with pool.client(STREAM) as stream:
        while await stream.said() != ["m-0", "n-0"]:
            pass
        pool.control.hold(["n-0"])
        held_at = time.monotonic()
        while await stream.said() != ["m-0"]:
            pass
        assert time.monotonic() - held_at < 15  # the batch that was under way ends first
        assert [await stream.said() for _ in range(5)] == [["m-0"]] * 5
        pool.control.hold([])
        while await stream.said() != ["m-0", "n-0"]:
            pass


WHO = "say(sorted(set(client.gather(client.map(lambda x: get_worker().name, range(20))))))"


async def comes_back(pool: DaskPool, unit: UnitName) -> None:
    """Restart the unit; wait until n-0 is registered anew and m-0 is there."""
    before = pool.control.workers["n-0"].address
    await pool.units.restart(unit)
    await until(
        lambda: {name: worker.address != before for name, worker in pool.control.workers.items()}
        == {"n-0": True, "m-0": True},
        "both are back",
    )


async def test_a_hold_lasts_when_the_worker_and_when_the_scheduler_comes_back(pool: DaskPool) -> None:
    pool.control.hold(["n-0"])
    for unit in (worker_unit("n-0"), SCHEDULER):
        await comes_back(pool, unit)
        assert await pool.compute(WHO) == ["m-0"]
        assert pool.control.workers["n-0"].status == "paused"


RETIRE = """
def slow(number):
    time.sleep(4)
    Path(directory / f"ran-{number}-{time.time_ns()}").touch()
    return number
results = client.map(lambda x: (x, os.urandom(2000)), range(40), workers=["n-0"], allow_other_workers=True)
wait(results)
before = client.gather(results)
running = client.submit(slow, 1, workers=["n-0"], allow_other_workers=True)
queued = [client.submit(slow, number, workers=["n-0"], allow_other_workers=True) for number in (2, 3)]
time.sleep(0.5)
say("go")
hear()
say([client.gather(results) == before, running.result(), client.gather(queued)])
"""


async def test_a_retired_worker_loses_nothing_and_its_running_task_ends(pool: DaskPool) -> None:
    seen: list[tuple[int, int, int]] = []
    async with pool.client(RETIRE) as script:
        assert await script.said() == "go"
        await pool.control.retire(["n-0"], lambda *counts: seen.append(counts))
        script.tell()
        assert await script.said() == [True, 1, [2, 3]]
    runs = sorted(path.name.split("-")[1] for path in pool.directory.glob("ran-*"))
    assert runs == ["1", "2", "3"], "no task ran twice"
    assert seen[0][0] >= 1
    assert seen[-1][1] == seen[-1][2] > 0


KEEP = """
kept = client.scatter([1, 2, 3])
say("go")
hear()
say([client.gather(kept), client.submit(sum, [2, 3]).result()])
"""


async def test_what_has_nowhere_to_go_stays_and_the_worker_works_on(pool: DaskPool) -> None:
    await pool.units.stop(worker_unit("m-0"))
    await until(lambda: set(pool.control.workers) == {"n-0"}, "one is left")
    async with pool.client(KEEP) as running:
        assert await running.said() == "go"
        with pytest.raises(SchedulerRefused, match="nowhere to go"):
            await pool.control.retire(["n-0"], lambda *_: None)
        pool.control.hold([])
        running.tell()
        assert await running.said() == [[1, 2, 3], 5]


BUSY = """
busy = client.submit(time.sleep, 3, workers=["n-0"])
time.sleep(0.5)
say("go")
hear()
say(client.submit(lambda: get_worker().name, workers=["n-0"]).result())
"""


async def test_a_cancelled_retirement_puts_the_worker_back_to_work(pool: DaskPool) -> None:
    async with pool.client(BUSY) as running:
        assert await running.said() == "go"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pool.control.retire(["n-0"], lambda *_: None)
        pool.control.hold([])
        running.tell()
        assert await running.said() == "n-0"


async def test_a_closed_worker_leaves_and_is_started_again(pool: DaskPool) -> None:
    address = pool.control.workers["n-0"].address
    await pool.control.close_workers(["n-0"])
    await until(
        lambda: pool.control.workers.get("n-0") is not None and pool.control.workers["n-0"].address != address,
        "it is back",
    )


async def test_nothing_can_be_asked_of_a_scheduler_that_is_away(pool: DaskPool) -> None:
    await pool.units.stop(SCHEDULER)
    await until(lambda: not pool.control.connected, "it is gone")
    with pytest.raises(SchedulerAway):
        await pool.control.retire(["n-0"], lambda *_: None)
    assert pool.control.workers == {}


NONSENSE = (b"\xff\xfe", b"[]", b'{"id":"x"}', b'{"id":1,"op":"explode"}', b'{"id":1,"op":"hold","workers":7}')


async def test_nonsense_on_the_control_socket_is_refused_and_harms_nobody(pool: DaskPool) -> None:
    reader, writer = await asyncio.open_unix_connection(pool.directory / "main.sock")
    await reader.readline()
    await reader.readline()
    for line in NONSENSE:
        writer.write(line + b"\n")
        assert b'"ok":false' in await asyncio.wait_for(reader.readline(), 60)
    writer.close()
    await writer.wait_closed()
    assert pool.control.connected
    assert (pool.directory / "main.sock").stat().st_mode & 0o777 == 0o660
