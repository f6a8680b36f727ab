"""The contract on the systemd back-end over a private bus, and what only a bus can do to us."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from clusterai.ids import UnitName
from clusterai.units import NotPermitted, UnitFailed, Units, UnitsConfig, UnitsUnavailable, open_units
from contract.units_contract import SECONDS, Subject, UnitsContract
from support.fake_systemd import BusDaemon, FakeSystemd, fake_systemd, kill

UNIT = UnitName("clusterai-worker@n-0.service")


@pytest.fixture
def systemd(systemd: FakeSystemd) -> FakeSystemd:
    systemd.add(UNIT)
    return systemd


@pytest.fixture
async def units(bus: BusDaemon, systemd: FakeSystemd) -> AsyncIterator[Units]:
    async with open_units(UnitsConfig(bus_address=bus.address)) as opened:
        yield opened


class TestSystemdUnits(UnitsContract):
    @pytest.fixture
    def subject(self, units: Units) -> Subject:
        return Subject(units, UNIT, kill)


@pytest.mark.parametrize("denial", ["AccessDenied", "InteractiveAuthorizationRequired"])
async def test_a_refusal_names_the_rule(units: Units, systemd: FakeSystemd, denial: str) -> None:
    systemd.units[UNIT].denied = denial
    with pytest.raises(NotPermitted, match="may not restart clusterai-worker@n-0") as refused:
        await units.restart(UNIT)
    assert "/usr/share/polkit-1/rules.d/50-cluster" in refused.value.advice
    with pytest.raises(NotPermitted, match="may not control clusterai-worker@n-0"):
        await units.check_permission(UNIT)


@pytest.mark.parametrize("result", ["failed", "timeout", "dependency", "canceled"])
async def test_a_job_that_ends_otherwise_carries_its_result(units: Units, systemd: FakeSystemd, result: str) -> None:
    systemd.units[UNIT].job_result = result
    with pytest.raises(UnitFailed) as failed:
        await units.start(UNIT)
    assert failed.value.result == result
    assert f"journalctl -u {UNIT}" in failed.value.advice


async def test_a_running_unit_is_really_reloaded(units: Units, systemd: FakeSystemd) -> None:
    await units.reload(UNIT)
    assert systemd.units[UNIT].reloads == 0
    await units.start(UNIT)
    await units.reload(UNIT)
    assert systemd.units[UNIT].reloads == 1


async def test_start_waits_for_the_end_of_its_job(units: Units, systemd: FakeSystemd) -> None:
    systemd.hang = True
    starting = asyncio.create_task(units.start(UNIT))
    await asyncio.sleep(0.3)
    assert not starting.done()
    systemd.hang = False
    await asyncio.wait_for(starting, SECONDS)


async def answered(units: Units) -> str:
    """Ask until the bus is back."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return (await units.status(UNIT)).active_state
            except UnitsUnavailable:
                await asyncio.sleep(0.05)


async def test_a_lost_bus_is_never_read_as_stopped_and_is_found_again(bus: BusDaemon) -> None:
    async with open_units(UnitsConfig(bus_address=bus.address)) as units:
        async with fake_systemd(bus.address) as systemd:
            systemd.add(UNIT)
            assert await answered(units) == "inactive"
            systemd.hang = True
            starting = asyncio.create_task(units.start(UNIT))
            await asyncio.sleep(0.2)
            bus.stop()
            with pytest.raises(UnitsUnavailable, match=r"not known|does not answer"):
                await asyncio.wait_for(starting, SECONDS)
            for _ in range(10):
                with pytest.raises(UnitsUnavailable):
                    await units.status(UNIT)
        bus.start()
        async with fake_systemd(bus.address) as systemd, aclosing(units.changes()) as changes:  # type: ignore[type-var]
            systemd.add(UNIT)
            change = asyncio.ensure_future(anext(changes))
            assert await answered(units) == "inactive"
            assert await asyncio.wait_for(change, SECONDS) == UNIT, "after the loss everything may have changed"
            await units.start(UNIT)
            assert await answered(units) == "active"


async def test_it_opens_without_a_bus_and_says_so() -> None:
    async with open_units(UnitsConfig(bus_address="unix:path=/nonexistent/bus")) as units:
        for verb in (units.start, units.stop, units.restart, units.reload, units.status):
            with pytest.raises(UnitsUnavailable, match="cannot control units"):
                await verb(UNIT)


async def test_a_bus_without_systemd_says_so(bus: BusDaemon) -> None:
    async with open_units(UnitsConfig(bus_address=bus.address)) as units:
        with pytest.raises(UnitsUnavailable):
            await units.status(UNIT)


async def test_changes_of_other_peoples_units_wake_nobody(units: Units, systemd: FakeSystemd) -> None:
    async with aclosing(units.changes()) as changes:  # type: ignore[type-var]
        first = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        systemd.add("cron.service")
        await asyncio.sleep(0.3)
        assert not first.done()
        await units.start(UNIT)
        assert await asyncio.wait_for(first, SECONDS) == UNIT
