"""What doctor says of the gateway: each fault with its fix. A real TLS and a real HTTP server play the gateway."""

import asyncio
import http.server
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clusterai.pki import key_pem, new_csr, new_key
from clusterai.units import Units, UnitsConfig, open_units
from clusterai.v1.cluster_pb2 import CheckOutcome, CheckResult
from clusteraid.authority import Authority
from clusteraid.gateway.checks import GatewayChecked, GatewayChecks
from clusteraid.gateway.data import DataFile
from clusteraid.gateway.routes import Peer
from clusteraid.gateway.status import GatewayStatus
from clusteraid.models.ports import PeerLoad
from fakes.http import stop_listening
from support.fake_systemd import BusDaemon, FakeSystemd, fake_systemd
from support.models import FixedInventory, copy, model, ready_ollama

UNIT = "clusterai-gateway.service"


class _Answers(http.server.BaseHTTPRequestHandler):
    """Answers every path with the server's text."""

    def do_GET(self) -> None:
        text = self.server.text  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def web_server(text: bytes, certificate: Path | None = None) -> Iterator[Any]:
    """A small server on a free port until the end of the block."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.text = text
    server.handle_error = lambda *_: None  # who closes before the handshake's end is no fault here
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Place:
    """A gateway that is as it should be; tests break it."""

    def __init__(self, directory: Path, units: Units, systemd: FakeSystemd, servers: ExitStack) -> None:
        self.directory = directory / "gateway"
        self.directory.mkdir()
        self.authority = Authority.open(directory / "pki")
        self.web = self.directory / "web.pem"
        self.certify(self.web)
        self.files = [DataFile(self.directory / name) for name in ("routes.json", "keys.json")]
        self.told: dict[str, Any] = {name: {"generation": 0, "problem": ""} for name in ("routes", "keys")}
        self.status = servers.enter_context(web_server(b"{}"))
        self.https = servers.enter_context(web_server(b"hello", self.web))
        self.units, self.systemd, self.count = units, systemd, 1
        self.inventory, self.peers = FixedInventory(), list[Peer]()

    def certify(self, path: Path) -> None:
        """Write a certificate for this machine, of the cluster's CA."""
        key = new_key()
        chain = self.authority.issue_web(new_csr(key), ("localhost",)).chain_pem
        path.write_bytes(key_pem(key) + chain)

    async def write(self) -> None:
        """Write both files; the gateway takes them."""
        for file in self.files:
            await file.put(lambda: {"x": 1})
            self.told[file.path.stem]["generation"] = file.generation

    async def find(self, name: str) -> CheckResult:
        """Run one check."""
        self.status.text = json.dumps(self.told).encode()
        checked = GatewayChecked(
            self.units, GatewayStatus(self.status.server_port), self.files, self.web, self.https.server_port,
            lambda: self.count, self.inventory, lambda: self.peers,
        )
        return await GatewayChecks(checked).all()[name]()


@pytest.fixture
async def place(tmp_path: Path, bus: BusDaemon) -> AsyncIterator[Place]:
    async with fake_systemd(bus.address) as systemd, open_units(UnitsConfig(bus_address=bus.address)) as units:
        with ExitStack() as servers:
            made = Place(tmp_path, units, systemd, servers)
            await made.write()
            yield made


async def started(place: Place, unit: str = UNIT) -> None:
    place.systemd.add(unit)
    await place.units.start(unit)  # type: ignore[arg-type]


def said(result: CheckResult) -> tuple[str, str, str]:
    return CheckOutcome.Name(result.outcome).removeprefix("CHECK_OUTCOME_"), result.message, result.fix


async def test_a_gateway_that_is_as_it_should_be(place: Place) -> None:
    await started(place)
    outcome, message, _ = said(await place.find("gateway"))
    assert (outcome, str(place.https.server_port) in message) == ("OK", True)


async def test_no_gateway_here_is_nothing_to_check(place: Place) -> None:
    assert said(await place.find("gateway"))[0] == "NOT_APPLICABLE"


async def test_a_stopped_gateway_is_started_with_a_command(place: Place) -> None:
    place.systemd.add(UNIT)
    outcome, message, fix = said(await place.find("gateway"))
    assert outcome == "FAILED"
    assert "inactive" in message
    assert "systemctl start clusterai-gateway" in fix


async def test_an_old_table_is_named_with_what_the_gateway_says_of_it(place: Place) -> None:
    await started(place)
    place.told["keys"] = {"generation": 1, "problem": "it is no JSON"}
    outcome, message, fix = said(await place.find("gateway"))
    assert outcome == "FAILED"
    assert "keys.json: it is no JSON" in message
    assert "journalctl -u clusterai-gateway" in fix


async def test_another_certificate_on_the_port_is_found(place: Place) -> None:
    await started(place)
    place.certify(place.web)
    outcome, message, _ = said(await place.find("gateway"))
    assert outcome == "FAILED"
    assert "shows another certificate" in message


async def test_without_a_key_it_says_how_to_make_one(place: Place) -> None:
    assert said(await place.find("keys"))[:2] == ("OK", "1 usable key")
    place.count = 0
    outcome, _, fix = said(await place.find("keys"))
    assert outcome == "WARNING"
    assert "clusteractl key create" in fix


async def test_models_that_nobody_serves_and_nodes_that_differ_are_named(place: Place) -> None:
    assert said(await place.find("models"))[0] == "NOT_APPLICABLE"
    place.peers = [Peer("a", ollama=ready_ollama()), Peer("b", ollama=ready_ollama())]
    place.inventory.set(model("m:latest", copy("a")))
    assert said(await place.find("models"))[:2] == ("OK", "1 models on 2 nodes with Ollama 0.31.1")
    place.inventory.set(model("m:latest", copy("a", usable=False)))
    assert said(await place.find("models"))[:2] == ("WARNING", "nobody can serve now: m:latest")
    place.peers[1] = Peer("b", ollama=ready_ollama(version="0.9.6"))
    assert "versions differ: 0.31.1, 0.9.6" in said(await place.find("models"))[1]
    place.peers[1] = Peer("b", ollama=ready_ollama(findings=["listens on all interfaces"]))
    assert "b: listens on all interfaces" in said(await place.find("models"))[1]


async def test_open_webui_is_not_missed_where_it_was_never_set_up(place: Place) -> None:
    outcome, message, _ = said(await place.find("open-webui"))
    assert outcome == "NOT_APPLICABLE"
    assert "sudo clusteraid setup open-webui" in message


async def test_what_is_in_flight_is_read_and_nothing_where_nobody_answers() -> None:
    told = {"nodes": {"tower": {"in_flight": 3, "failing": True}, "nas": {}, "odd": 7}}
    with web_server(json.dumps(told).encode()) as server:
        status = GatewayStatus(server.server_port)
        loads = {"tower": PeerLoad(3, failing=True), "nas": PeerLoad(), "odd": PeerLoad()}
        assert await status.fetch() == loads
        server.text = b"nonsense"
        assert await status.fetch() is None
    assert await status.fetch() is None


async def test_a_gateway_that_does_not_answer_is_unreachable_within_its_time() -> None:
    listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        with pytest.raises(Exception, match=f"cannot reach the gateway on 127.0.0.1:{port}"):
            await GatewayStatus(port).read()
        await stop_listening(listening)
