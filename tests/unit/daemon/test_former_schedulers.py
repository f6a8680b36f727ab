"""Schedulers of pools that are not configured any more are stopped, and no others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterai.ids import UnitName
from clusterai.units import Units, UnitsConfig, open_units
from clusteraid import former_schedulers
from clusteraid.former_schedulers import FormerSchedulers
from support.fake_systemd import BusDaemon, FakeSystemd

MAIN, MOBILE = UnitName("clusterai-scheduler@main.service"), UnitName("clusterai-scheduler@mobile.service")


@pytest.fixture
def systemd(systemd: FakeSystemd) -> FakeSystemd:
    for unit in (MAIN, MOBILE):
        systemd.add(unit)
    return systemd


@pytest.fixture
async def units(bus: BusDaemon, systemd: FakeSystemd) -> AsyncIterator[Units]:
    del systemd
    async with open_units(UnitsConfig(bus_address=bus.address)) as opened:
        for unit in (MAIN, MOBILE):
            await opened.start(unit)
        yield opened


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("main.json", "main-dask.pem", "mobile.json", "mobile-dask.pem", "dask-ca.pem", "Not A Pool.json"):
        (tmp_path / name).write_text("{}")
    return tmp_path


async def test_a_pool_that_is_gone_leaves_no_scheduler_and_no_key(directory: Path, units: Units) -> None:
    await FormerSchedulers(directory, {"main"}, units).end()
    assert (await units.status(MOBILE)).active_state == "inactive"
    assert (await units.status(MAIN)).active_state == "active"
    left = {path.name for path in directory.iterdir()}
    assert left == {"main.json", "main-dask.pem", "dask-ca.pem", "Not A Pool.json"}


async def test_pools_that_are_configured_go_on(directory: Path, units: Units) -> None:
    await FormerSchedulers(directory, {"main", "mobile"}, units).end()
    assert (await units.status(MOBILE)).active_state == "active"
    assert (directory / "mobile.json").exists()


async def test_what_cannot_be_stopped_now_is_stopped_later(
    directory: Path, units: Units, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(former_schedulers, "_AGAIN_SECONDS", 0.05)
    systemd.units[MOBILE].denied = "AccessDenied"
    ending = asyncio.create_task(FormerSchedulers(directory, {"main"}, units).end())
    await asyncio.sleep(0.2)
    assert not ending.done()
    assert (directory / "mobile.json").exists(), "the record stays until it is done"
    systemd.units[MOBILE].denied = ""
    async with asyncio.timeout(60):
        await ending
    assert not (directory / "mobile.json").exists()
    assert (await units.status(MOBILE)).active_state == "inactive"
