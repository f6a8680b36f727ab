"""The contract on the process back-end, and what only that back-end promises."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from clusterai.ids import UnitName
from clusterai.launch import SchedulerLaunch
from clusterai.units import UnitsConfig, UnitsUnavailable, open_units
from clusterai.units.process import restart_delay, trim_log
from contract.units_contract import Subject, UnitsContract, settled

UNIT = UnitName("clusterai-scheduler@main.service")


def quiet_environment(directory: Path) -> Path:
    """Make an environment whose python is a program that only waits, whatever its arguments are."""
    python = directory / "env/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho started\nexec sleep 1000\n")
    python.chmod(0o755)
    return directory / "env"


def write_launch(directory: Path) -> None:
    """Write a scheduler's launch file, with everything that it names."""
    present = directory / "present"
    present.touch()
    launch = SchedulerLaunch(
        "main", quiet_environment(directory), "127.0.0.1", 0, "", present, present, directory / "s.sock", present
    )
    (directory / "launch").mkdir()
    (directory / "launch/main.json").write_text(launch.to_json())


@pytest.fixture
def config(tmp_path: Path) -> UnitsConfig:
    write_launch(tmp_path)
    return UnitsConfig("process", tmp_path / "state", {"clusterai-scheduler": tmp_path / "launch"}, stop_on_exit=True)


async def kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)


class TestProcessUnits(UnitsContract):
    @pytest.fixture
    async def subject(self, config: UnitsConfig) -> AsyncIterator[Subject]:
        async with open_units(config) as units:
            yield Subject(units, UNIT, kill)


class TestProcessUnitsOnAndroid(TestProcessUnits):
    """The same where the C library has neither posix_spawn (before API 28) nor pidfd_open (before 31)."""

    @pytest.fixture(autouse=True)
    def _old_android(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "posix_spawn")
        monkeypatch.delattr(os, "pidfd_open")
        monkeypatch.delattr(os, "waitid")


def alive(process_id: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False


async def test_a_new_owner_goes_on_with_what_runs(config: UnitsConfig) -> None:
    staying = replace(config, stop_on_exit=False)
    async with open_units(staying) as units:
        await units.start(UNIT)
        first = await units.status(UNIT)
    assert alive(first.main_process_id)
    async with open_units(config) as units:
        assert (await units.status(UNIT)).main_process_id == first.main_process_id
        await units.start(UNIT)
        assert (await units.status(UNIT)).main_process_id == first.main_process_id
        await kill(first.main_process_id)
        gone = (0, first.main_process_id)
        await settled(Subject(units, UNIT, kill), lambda status: status.main_process_id not in gone)


async def test_a_record_of_another_process_with_the_same_number_is_not_believed(config: UnitsConfig) -> None:
    record = config.state_directory / f"units/{UNIT}.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(
        {"process_id": os.getpid(), "start_ticks": 1, "boot_id": "x", "started_unix_seconds": 1.0, "restart_count": 0}
    ))  # fmt: skip
    async with open_units(config) as units:
        assert (await units.status(UNIT)).active_state == "inactive"


async def test_a_second_owner_is_refused(config: UnitsConfig) -> None:
    async with open_units(config):
        with pytest.raises(UnitsUnavailable, match="another program"):
            async with open_units(config):
                pass


async def test_what_it_started_ends_with_it(config: UnitsConfig) -> None:
    async with open_units(config) as units:
        await units.start(UNIT)
        process_id = (await units.status(UNIT)).main_process_id
    assert not alive(process_id)


OWNER = """
import asyncio
from pathlib import Path
from clusterai.units import UnitsConfig, open_units

async def main():
    config = UnitsConfig("process", Path({state!r}), {{"clusterai-scheduler": Path({launch!r})}}, stop_on_exit=True)
    async with open_units(config) as units:
        await units.start({unit!r})
        await asyncio.sleep(1)
        print((await units.status({unit!r})).main_process_id, flush=True)
        await asyncio.sleep(100)

asyncio.run(main())
"""


async def test_children_die_with_a_killed_owner(config: UnitsConfig, tmp_path: Path) -> None:
    program = OWNER.format(state=str(config.state_directory), launch=str(tmp_path / "launch"), unit=UNIT)
    common = str(Path(__file__).parents[2] / "common")
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": common}
    )
    assert owner.stdout is not None
    process_id = int(await owner.stdout.readline())
    assert alive(process_id)
    owner.kill()
    await owner.communicate()
    async with asyncio.timeout(60):
        while alive(process_id):
            await asyncio.sleep(0.02)


async def test_the_log_holds_what_the_process_and_the_launcher_say(config: UnitsConfig, tmp_path: Path) -> None:
    log = config.log_directory / f"{UNIT}.log"
    async with open_units(config) as units:
        await units.start(UNIT)
        async with asyncio.timeout(60):
            while "started" not in log.read_text():
                await asyncio.sleep(0.02)
        await units.stop(UNIT)
        (tmp_path / "launch/main.json").write_text("{}")
        await units.start(UNIT)
        status = await settled(Subject(units, UNIT, kill), lambda status: status.sub_state == "auto-restart")
    assert status.result == "exit-code"
    assert "main.json: ca: is missing" in log.read_text()


def test_a_log_is_cut_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 100 + b"b" * 10)
        assert not trim_log(log, 1000)
        assert trim_log(log, 10)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "x.log.1").read_bytes() == b"b" * 10


def test_restarts_come_later_and_later_up_to_a_limit() -> None:
    assert [restart_delay(attempt, 0.5) for attempt in (0, 1, 2, 6, 1000)] == [0.5, 1.0, 2.0, 30.0, 30.0]
