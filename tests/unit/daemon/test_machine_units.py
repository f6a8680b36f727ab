"""Which units of this machine the daemon controls, and what it says of those that are not its own."""

from collections.abc import AsyncIterator

import pytest

from clusterai.ids import PoolName
from clusterai.units import UnitsConfig, open_units
from clusteraid.machine_units import MachineUnits, OnlyRestarted, UnitNotOurs
from support.fake_systemd import BusDaemon, FakeSystemd

SCHEDULER = "clusterai-scheduler@main.service"


@pytest.fixture
async def units(bus: BusDaemon, systemd: FakeSystemd) -> AsyncIterator[MachineUnits]:
    async with open_units(UnitsConfig(bus_address=bus.address)) as opened:
        yield MachineUnits(opened, [PoolName("main")])


async def test_what_a_server_need_not_have_is_listed_only_where_it_is(
    units: MachineUnits, systemd: FakeSystemd
) -> None:
    assert [(unit.unit, unit.installed) for unit in await units.list()] == [(SCHEDULER, False)]
    systemd.add("ollama.service")
    systemd.add("clusterai-gateway.service")
    assert [unit.unit for unit in await units.list()] == [SCHEDULER, "clusterai-gateway.service", "ollama.service"]


async def test_gateway_and_open_webui_are_started_and_stopped(units: MachineUnits, systemd: FakeSystemd) -> None:
    for name in ("clusterai-gateway", "open-webui"):
        systemd.add(f"{name}.service")
        assert (await units.start(name)).active_state == "active"
        assert (await units.restart(name)).active_state == "active"
        assert (await units.stop(name)).active_state == "inactive"


async def test_ollama_is_restarted_and_nothing_else(units: MachineUnits, systemd: FakeSystemd) -> None:
    systemd.add("ollama.service")
    assert (await units.restart("ollama")).active_state == "active"
    for verb in (units.start, units.stop):
        with pytest.raises(OnlyRestarted) as refused:
            await verb("ollama")
        assert "sudo systemctl" in refused.value.advice


@pytest.mark.parametrize("name", ["nginx", "ssh.service", "clusterai-gateway@x", "../ollama", ""])
async def test_other_units_are_not_touched(units: MachineUnits, systemd: FakeSystemd, name: str) -> None:
    systemd.add("nginx.service")
    with pytest.raises(UnitNotOurs):
        await units.restart(name)


async def test_their_logs_can_be_read(units: MachineUnits) -> None:
    for name in ("clusterai-gateway", "open-webui", "ollama", "clusteraid", SCHEDULER):
        assert units.readable_unit(name).startswith(name)
    with pytest.raises(UnitNotOurs):
        units.readable_unit("ssh")
