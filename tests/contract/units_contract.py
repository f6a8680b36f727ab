"""What every back-end of `clusterai.units` does: one suite, run on the process back-end and on systemd.

It needs no test runner: on a booted machine `run_contract` is called by a plain script with the real back-end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from clusterai.ids import UnitName
from clusterai.units import UnitMissing, Units, UnitStatus

SECONDS = 60.0
MISSING = UnitName("clusterai-nowhere@x.service")


@dataclass(frozen=True)
class Subject:
    """A back-end, a unit that it can start and that stays up, and how to kill that unit's process behind its back."""

    units: Units
    unit: UnitName
    kill: Callable[[int], Awaitable[None]]


async def settled(subject: Subject, good: Callable[[UnitStatus], bool]) -> UnitStatus:
    """Wait until the unit's status is good."""
    async with asyncio.timeout(SECONDS):
        while not good(status := await subject.units.status(subject.unit)):
            await asyncio.sleep(0.05)
    return status


class UnitsContract:
    """The tests. Each gets a stopped unit and may leave it running."""

    async def test_a_started_unit_runs_when_start_returns(self, subject: Subject) -> None:
        await subject.units.start(subject.unit)
        status = await subject.units.status(subject.unit)
        assert (status.active_state, status.sub_state, status.installed) == ("active", "running", True)
        assert status.main_process_id > 1
        assert status.since_unix_seconds > 1e9
        assert status.description

    async def test_starting_a_running_unit_leaves_it_alone(self, subject: Subject) -> None:
        await subject.units.start(subject.unit)
        before = await subject.units.status(subject.unit)
        await subject.units.start(subject.unit)
        assert await subject.units.status(subject.unit) == before

    async def test_a_stopped_unit_is_down_when_stop_returns_and_stays_down(self, subject: Subject) -> None:
        await subject.units.start(subject.unit)
        await subject.units.stop(subject.unit)
        await asyncio.sleep(1.0)
        status = await subject.units.status(subject.unit)
        assert (status.active_state, status.main_process_id, status.installed) == ("inactive", 0, True)

    async def test_asking_for_permission_changes_nothing(self, subject: Subject) -> None:
        before = await subject.units.status(subject.unit)
        await subject.units.check_permission(subject.unit)
        assert await subject.units.status(subject.unit) == before

    async def test_stopping_a_stopped_unit_is_fine(self, subject: Subject) -> None:
        await subject.units.stop(subject.unit)
        await subject.units.stop(subject.unit)

    async def test_restart_makes_a_new_process_and_starts_a_stopped_unit(self, subject: Subject) -> None:
        await subject.units.restart(subject.unit)
        first = (await subject.units.status(subject.unit)).main_process_id
        await subject.units.restart(subject.unit)
        second = (await subject.units.status(subject.unit)).main_process_id
        assert first != second
        assert min(first, second) > 1

    async def test_restart_if_it_runs_leaves_a_stopped_unit_alone(self, subject: Subject) -> None:
        await subject.units.try_restart(subject.unit)
        assert (await subject.units.status(subject.unit)).active_state == "inactive"
        await subject.units.start(subject.unit)
        first = (await subject.units.status(subject.unit)).main_process_id
        await subject.units.try_restart(subject.unit)
        assert (await subject.units.status(subject.unit)).main_process_id not in (0, first)

    async def test_reload_keeps_the_process_and_starts_nothing(self, subject: Subject) -> None:
        await subject.units.reload(subject.unit)
        assert (await subject.units.status(subject.unit)).main_process_id == 0
        await subject.units.start(subject.unit)
        before = (await subject.units.status(subject.unit)).main_process_id
        await subject.units.reload(subject.unit)
        assert (await subject.units.status(subject.unit)).main_process_id == before

    async def test_a_process_that_dies_is_replaced_and_counted(self, subject: Subject) -> None:
        await subject.units.start(subject.unit)
        before = await subject.units.status(subject.unit)
        await subject.kill(before.main_process_id)
        gone = (0, before.main_process_id)
        after = await settled(
            subject, lambda status: status.active_state == "active" and status.main_process_id not in gone
        )
        assert after.restart_count == before.restart_count + 1

    async def test_a_unit_that_waits_for_its_restart_can_be_stopped(self, subject: Subject) -> None:
        await subject.units.start(subject.unit)
        await subject.kill((await subject.units.status(subject.unit)).main_process_id)
        waiting = await settled(subject, lambda status: status.active_state != "active")
        assert (waiting.active_state, waiting.result) == ("activating", "signal")
        await subject.units.stop(subject.unit)
        assert (await subject.units.status(subject.unit)).active_state in ("inactive", "failed")

    async def test_an_unknown_unit_is_named_with_the_package_that_ships_it(self, subject: Subject) -> None:
        assert not (await subject.units.status(MISSING)).installed
        for verb in (subject.units.start, subject.units.stop, subject.units.restart, subject.units.reload):
            refusal = await _refusal(verb(MISSING))
            assert MISSING in str(refusal)
            assert "apt install clusteraid" in refusal.advice

    async def test_changes_are_told(self, subject: Subject) -> None:
        async with aclosing(subject.units.changes()) as changes, asyncio.timeout(SECONDS):  # type: ignore[type-var]
            first = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            await subject.units.start(subject.unit)
            assert await first == subject.unit


async def _refusal(work: Awaitable[None]) -> UnitMissing:
    try:
        await work
    except UnitMissing as error:
        return error
    raise AssertionError("it said nothing")


async def run_contract(subject: Subject) -> list[str]:
    """Run every test on the subject; return the names of those that passed. The first that fails raises."""
    contract, passed = UnitsContract(), []
    for name in (name for name in dir(contract) if name.startswith("test_")):
        await subject.units.stop(subject.unit)
        await getattr(contract, name)(subject)
        passed.append(name)
    await subject.units.stop(subject.unit)
    return passed
