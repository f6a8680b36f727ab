"""What the daemon says of itself and of what it serves."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from clusterai.units import Units, UnitsConfig, UnitsUnavailable, open_units
from clusterai.v1.cluster_pb2 import ModelsStatus, PoolStatus
from clusteraid.gateway.served import Served
from clusteraid.status import AboutServer, Problems, StatusReport
from support.fake_systemd import BusDaemon, FakeSystemd
from support.models import FixedInventory, copy, model

UNIT: Any = "clusterai-gateway.service"
URL = "https://tower.local:11434"


def report(served: ModelsStatus | None) -> StatusReport:
    """A report of a server without nodes."""

    async def models() -> ModelsStatus | None:
        return served

    reach: Any = SimpleNamespace(at_first_host=lambda address: address, cluster=lambda: ("tower:7443",))
    nodes: Any = SimpleNamespace(counts=dict)
    pool: Any = SimpleNamespace(status=PoolStatus, workers=())
    store: Any = SimpleNamespace(problem="")
    about = AboutServer("c-1", bytes(32), b"-----BEGIN CERTIFICATE-----\n", "", reach)
    return StatusReport(about, nodes, [pool], store, Problems(), models)


@pytest.fixture
async def units(bus: BusDaemon, systemd: FakeSystemd) -> AsyncIterator[Units]:
    del systemd
    async with open_units(UnitsConfig(bus_address=bus.address)) as units:
        yield units


async def test_the_authority_is_told_as_text_that_a_file_can_hold() -> None:
    assert (await report(None).response(0)).ca_pem == "-----BEGIN CERTIFICATE-----\n"


async def test_models_are_told_where_there_is_a_gateway_and_only_there() -> None:
    served = ModelsStatus(model_count=1, gateway_state="running")
    assert (await report(served).response(0)).models == served
    assert not (await report(None).response(0)).HasField("models")


async def test_what_is_served_counts_models_that_somebody_can_answer_for_and_the_nodes_that_can(
    units: Units, systemd: FakeSystemd
) -> None:
    systemd.add(UNIT)
    await units.start(UNIT)
    inventory = FixedInventory(
        model("a:latest", copy("tower"), copy("nas")),
        model("b:latest", copy("tower"), copy("pi4", usable=False)),
        model("c:latest", copy("desk", usable=False)),
    )
    assert await Served(lambda: (URL,), units, inventory).status() == ModelsStatus(
        model_count=2, node_count=2, gateway_state="running", gateway_urls=[URL]
    )


async def test_a_gateway_that_does_not_run_is_told_as_what_it_is(units: Units, systemd: FakeSystemd) -> None:
    served = Served(lambda: (URL,), units, FixedInventory())
    absent = await served.status()
    assert absent is not None
    assert (absent.gateway_state, absent.reason) == ("stopped", "its unit is not installed")
    systemd.add(UNIT)
    stopped = await served.status()
    assert stopped is not None
    assert (stopped.gateway_state, stopped.reason) == ("stopped", "")


async def test_a_bus_that_is_lost_leaves_the_status_readable() -> None:
    async def status(_unit: str) -> None:
        raise UnitsUnavailable(fix="", reason="the connection is closed")

    lost: Any = SimpleNamespace(status=status)
    told = await Served(lambda: (URL,), lost, FixedInventory()).status()
    assert told is not None
    assert told.gateway_state == "unknown"
    assert "the connection is closed" in told.reason


async def test_without_a_gateway_systemd_is_not_asked(units: Units) -> None:
    assert await Served(tuple, units, FixedInventory()).status() is None
