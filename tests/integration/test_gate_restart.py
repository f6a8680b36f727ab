"""A gate whose restart failed is restarted later, by this agent or the next one; the manager is the double."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from clusterai.models import GATEWAY_NAME
from clusterai.tunnels import GateLaunch
from clusterai.units import NotPermitted, Units, UnitsConfig, open_units
from clusterai_agent.models.tunnel_units import UNITS, Tunnels
from support.fake_systemd import FakeSystemd, fake_systemd, private_bus

UNIT = UNITS["gate"]


@pytest.fixture
async def systemd_and_units() -> AsyncIterator[tuple[FakeSystemd, Units]]:
    with private_bus() as bus:
        async with fake_systemd(bus.address) as systemd, open_units(UnitsConfig(bus_address=bus.address)) as units:
            systemd.add(UNIT)
            yield systemd, units


@pytest.mark.parametrize("another_agent", [False, True], ids=["this agent", "the next one"])
async def test_a_restart_that_failed_is_made_up_for_once(
    tmp_path: Path, systemd_and_units: tuple[FakeSystemd, Units], another_agent: bool
) -> None:
    systemd, units = systemd_and_units
    file = tmp_path / "gate.pem"
    first = GateLaunch("", 11443, "127.0.0.1:11434", file, file, GATEWAY_NAME)
    second = replace(first, ollama_address="127.0.0.1:11435")
    tunnels = Tunnels(tmp_path / "gate", units)

    async def process() -> int:
        return (await units.status(UNIT)).main_process_id

    await tunnels.run("gate", first, new_certificate=False)
    old = await process()
    systemd.units[UNIT].denied = "AccessDenied"
    with pytest.raises(NotPermitted):
        await tunnels.run("gate", second, new_certificate=False)
    systemd.units[UNIT].denied = ""
    assert await process() == old
    if another_agent:
        tunnels = Tunnels(tmp_path / "gate", units)
    await tunnels.run("gate", second, new_certificate=False)
    new = await process()
    assert new != old, "it leads to where it shall"
    await tunnels.run("gate", second, new_certificate=False)
    assert await process() == new, "once is enough"
    await tunnels.stop()
    assert list((tmp_path / "gate").iterdir()) == []
