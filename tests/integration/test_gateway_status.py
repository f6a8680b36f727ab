"""What the daemon hears from a running gateway of its nodes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clusteraid.gateway.status import GatewayStatus
from clusteraid.models.ports import PeerLoad
from support.gates import running_gate
from support.gateway import Gateway, routes, running_gateway
from support.ports import free_ports
from support.raw_http import ask
from support.waiting import until

KEY, MODEL = "cak1.aaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaa", "llama3.2:3b"
HERE = {"loaded": True, "fit": 1}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(tmp_path) as running:
        running.write_keys({KEY: {"id": "aaaaaaaa"}})
        yield running


async def test_a_node_that_does_not_answer_is_heard_of_as_failing(gateway: Gateway) -> None:
    status = GatewayStatus(gateway.status_port)
    async with running_gate("b", gateway.authority) as b:
        gateway.write_routes(routes({"a": free_ports(1)[0], "b": b.port}, {MODEL: {"a": HERE, "b": HERE}}))
        await until(lambda: gateway.status()["routes"]["generation"] and gateway.status()["keys"]["generation"])
        assert await status.fetch() == {"a": PeerLoad(), "b": PeerLoad()}
        assert (await ask(gateway.port, "/api/chat", {"model": MODEL}, key=KEY)).status == 200
        await until(lambda: not gateway.status()["nodes"]["b"]["in_flight"])  # it ends a moment after its answer
        assert await status.fetch() == {"a": PeerLoad(0, failing=True), "b": PeerLoad()}


async def test_without_a_gateway_nothing_is_heard() -> None:
    assert await GatewayStatus(free_ports(1)[0]).fetch() is None
