"""The files that the gateway reads: whole, only when they differ, and never lost for long."""

import asyncio
import json
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from clusterai.files import CannotWrite
from clusteraid.gateway.data import DataFile, KeptFile
from clusteraid.status import Problems
from support.waiting import until


class Source:
    """What the file shall say; counts how often it was asked."""

    def __init__(self) -> None:
        self.content: dict[str, Any] = {"nodes": {}}
        self.asked = 0

    def __call__(self) -> dict[str, Any]:
        self.asked += 1
        return self.content


def data_file(directory: Path, now: float = 1.7e9) -> DataFile:
    return DataFile(directory / "routes.json", lambda: now)


def read(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "routes.json").read_text())
    return found


@asynccontextmanager
async def kept(directory: Path, source: Source) -> AsyncIterator[tuple[KeptFile, Problems]]:
    problems = Problems()
    file = KeptFile(data_file(directory), source, problems)
    keeping = asyncio.create_task(file.keep(), name="keep")
    try:
        yield file, problems
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_the_file_has_format_and_generation_and_is_read_by_the_group_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o2750)
    assert await data_file(tmp_path).put(lambda: {"keys": {}})
    assert read(tmp_path).keys() == {"format", "generation", "keys"}
    assert read(tmp_path)["format"] == 1
    assert read(tmp_path)["generation"] < 10**14, "Lua's JSON has no more digits"
    status = (tmp_path / "routes.json").stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_gid == tmp_path.stat().st_gid
    assert [file.name for file in tmp_path.iterdir()] == ["routes.json"]


async def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    file = data_file(tmp_path)
    await file.put(lambda: {"nodes": {"a": 1}})
    before = (tmp_path / "routes.json").stat().st_mtime_ns
    assert not await file.put(lambda: {"nodes": {"a": 1}})
    assert (tmp_path / "routes.json").stat().st_mtime_ns == before
    assert not await data_file(tmp_path, 1.8e9).put(lambda: {"nodes": {"a": 1}}), "not after a restart either"


@pytest.mark.parametrize("now", [1.8e9, 0], ids=["later", "the clock was set back"])
async def test_generations_grow_over_restarts(tmp_path: Path, now: float) -> None:
    first = data_file(tmp_path)
    await first.put(lambda: {"nodes": {}})
    await first.put(lambda: {"nodes": {"a": 1}})
    before = read(tmp_path)["generation"]
    assert await data_file(tmp_path, now).put(lambda: {"nodes": {}})
    assert read(tmp_path)["generation"] > before


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"format": 2, "generation": 9}', '{"format": 1, "nodes": {}}'])
async def test_a_damaged_file_is_written_anew(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "routes.json").write_text(damaged)
    assert await data_file(tmp_path).put(lambda: {"nodes": {}})
    assert read(tmp_path)["nodes"] == {}


async def test_a_file_that_somebody_removed_comes_back(tmp_path: Path) -> None:
    file = data_file(tmp_path)
    await file.put(lambda: {"nodes": {}})
    before = read(tmp_path)["generation"]
    (tmp_path / "routes.json").unlink()
    assert await file.put(lambda: {"nodes": {}})
    (tmp_path / "routes.json").unlink()
    assert await data_file(tmp_path, 1.8e9).put(lambda: {"nodes": {}})
    assert read(tmp_path)["generation"] > before, "after a restart it is newer too"


async def test_without_the_directory_there_is_no_gateway_and_no_problem(tmp_path: Path) -> None:
    async with kept(tmp_path / "none", Source()) as (file, problems):
        await file.put()
        await asyncio.sleep(0.2)
        assert problems.all() == ()
        assert not (tmp_path / "none").exists()


async def test_a_change_is_in_the_file_soon(tmp_path: Path) -> None:
    source, slowest = Source(), 0.0
    async with kept(tmp_path, source) as (file, _):
        await until(lambda: (tmp_path / "routes.json").exists())
        for number in range(5):
            await asyncio.sleep(0.03 * number)
            source.content = {"nodes": {"n": number}}
            began = time.monotonic()
            file.changed()
            await until(lambda number=number: read(tmp_path)["nodes"] == {"n": number})  # type: ignore[misc]
            slowest = max(slowest, time.monotonic() - began)
    assert source.asked >= 6
    assert slowest < 5, "0.1 s on an idle machine"


async def test_many_changes_together_are_one_look(tmp_path: Path) -> None:
    source = Source()
    async with kept(tmp_path, source) as (file, _):
        await until(lambda: (tmp_path / "routes.json").exists())
        began, before = time.monotonic(), source.asked
        for _ in range(50):
            file.changed()
            await asyncio.sleep(0.005)
        looks, lasted = source.asked - before, time.monotonic() - began
        assert looks <= lasted / 0.1 + 2


async def test_after_a_freeze_nothing_is_written(tmp_path: Path) -> None:
    source = Source()
    async with kept(tmp_path, source) as (file, _):
        await until(lambda: (tmp_path / "routes.json").exists())
        file.freeze()
        source.content = {"nodes": {"all": "gone"}}
        file.changed()
        await asyncio.sleep(0.3)
        assert read(tmp_path)["nodes"] == {}


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A directory into which even root cannot write a file of that name, until its obstacle is removed."""
    (tmp_path / "routes.json").mkdir()
    (tmp_path / "routes.json" / "in the way").touch()
    return tmp_path


async def test_what_cannot_be_written_is_a_problem_and_is_tried_again(unwritable: Path) -> None:
    source = Source()
    async with kept(unwritable, source) as (file, problems):
        await until(problems.all)
        assert "routes.json" in problems.all()[0]
        assert "df " in problems.all()[0]
        with pytest.raises(CannotWrite):
            await file.put()
        (unwritable / "routes.json" / "in the way").unlink()
        (unwritable / "routes.json").rmdir()
        await until(lambda: not problems.all())
        assert read(unwritable)["nodes"] == {}


async def test_writers_take_turns_and_the_last_content_stays(tmp_path: Path) -> None:
    file, state = data_file(tmp_path), {"n": 0}

    async def write(number: int) -> None:
        state["n"] = number
        await file.put(lambda: dict(state))

    await asyncio.gather(*(write(number) for number in range(1, 20)))
    assert read(tmp_path)["n"] == 19


async def test_a_writer_whose_caller_goes_away_still_has_its_turn(tmp_path: Path) -> None:
    file = data_file(tmp_path)
    writing = asyncio.create_task(file.put(lambda: {"n": 1}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await file.put(lambda: {"n": 2})
    assert read(tmp_path)["n"] == 2
