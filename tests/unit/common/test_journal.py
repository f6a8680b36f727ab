"""Reading logs: journald's records, and the process back-end's files with Dask's and our lines in them."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from clusterai.ids import UnitName
from clusterai.journal import LogEntry, LogUnavailable, entry_of, parse_line, read_log
from clusterai.units import UnitsConfig
from support.zone import in_utc

UNIT = UnitName("clusterai-worker@n-0.service")


def test_a_journal_record_becomes_an_entry() -> None:
    record = {"MESSAGE": "hello", "PRIORITY": "3", "__REALTIME_TIMESTAMP": "1700000000500000"}
    assert entry_of(record, UNIT) == LogEntry(1700000000.5, UNIT, 3, "hello")
    assert entry_of({"MESSAGE": [104, 105, 255]}, UNIT).message == "hi\ufffd"
    assert entry_of({"MESSAGE": None, "PRIORITY": "99"}, UNIT) == LogEntry(0.0, UNIT, 6, "")
    with pytest.raises(ValueError, match="not a journal entry"):
        entry_of([], UNIT)


def test_a_line_keeps_its_own_time_and_level() -> None:
    with in_utc():
        dask = parse_line(b"2026-01-02 03:04:05,250 - distributed.worker - WARNING - a - b", UNIT, 1.0)
        ours = parse_line(b"2026-01-02 03:04:05,250 ERROR clusteraid.pools: no", UNIT, 1.0)
    assert (dask.time, dask.priority, dask.message) == (1767323045.25, 4, "distributed.worker: a - b")
    assert (ours.priority, ours.message) == (3, "clusteraid.pools: no")
    assert parse_line(b"  Traceback", UNIT, 1.0) == LogEntry(1.0, UNIT, 6, "  Traceback")


async def messages(config: UnitsConfig, count: int) -> list[str]:
    return [entry.message async for entry in read_log(UNIT, line_count=count, follow=False, units=config)]


async def test_the_last_lines_come_also_from_the_file_before(tmp_path: Path) -> None:
    config = UnitsConfig("process", tmp_path)
    config.log_directory.mkdir()
    (config.log_directory / f"{UNIT}.log.1").write_text("a\nb\n")
    (config.log_directory / f"{UNIT}.log").write_text("c\n")
    assert await messages(config, 2) == ["b", "c"]
    assert await messages(config, 100) == ["a", "b", "c"]
    assert await messages(config, 0) == []


async def test_following_shows_whole_new_lines_also_after_the_file_was_cut(tmp_path: Path) -> None:
    config = UnitsConfig("process", tmp_path)
    config.log_directory.mkdir()
    log = config.log_directory / f"{UNIT}.log"
    log.write_text("old\n")
    async with aclosing(read_log(UNIT, line_count=1, follow=True, units=config)) as entries, asyncio.timeout(60):
        assert (await anext(entries)).message == "old"
        with log.open("a") as writer:
            writer.write("hal")
            writer.flush()
            following = asyncio.ensure_future(anext(entries))
            await asyncio.sleep(0.7)
            writer.write("f\n")
        assert (await following).message == "half"
        log.write_text("new\n")
        assert (await anext(entries)).message == "new"


@pytest.mark.parametrize("name", ["--file=/etc/shadow", "../x", "a b", "", "x\0"])
async def test_what_is_no_unit_is_refused(tmp_path: Path, name: str) -> None:
    for back_end in ("systemd", "process"):
        config = UnitsConfig(back_end, tmp_path)
        with pytest.raises(LogUnavailable, match="no unit's name"):
            await anext(read_log(UnitName(name), line_count=1, follow=False, units=config))


async def test_a_unit_that_never_ran_has_no_log(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="there is no"):
        await messages(UnitsConfig("process", tmp_path), 1)
