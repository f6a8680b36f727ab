"""What browsers and nodes get: Open WebUI, the dashboard, the cluster's page; the mirror of model files."""

import asyncio
import base64
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clusterai.pki import serial_of
from fakes.http import stop_listening
from support.gates import load_pem
from support.gateway import Gateway, certificate, routes, running_gateway
from support.ports import free_ports
from support.raw_http import Answer, ask, read_head, request_bytes, sent
from support.tree import ROOT
from support.waiting import can_connect, until

BOARD, KEY = (f"cak1.{letter * 8}.{letter * 26}" for letter in "ab")
BLOB = bytes(range(256)) * 4096
HEX = hashlib.sha256(BLOB).hexdigest()
MANIFEST = b'{"schemaVersion":2,"layers":[]}'


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    with running_gateway(tmp_path) as running:
        running.write_keys({BOARD: {"id": "aaaaaaaa", "dashboard": True}, KEY: {"id": "bbbbbbbb"}})
        await until(lambda: running.status()["keys"]["generation"])
        yield running


def browser(gateway: Gateway) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=gateway.authority.cert_pem.decode())


@contextlib.asynccontextmanager
async def site(at: int | Path) -> AsyncIterator[list[tuple[str, dict[str, str]]]]:
    """Serve a small site: it tells what it was asked, and echoes a WebSocket's bytes after the upgrade."""
    asked: list[tuple[str, dict[str, str]]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        asked.append((head.first[1], dict(head.headers)))
        if head.headers.get("upgrade") == "websocket":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            writer.write(await reader.readexactly(4))
        else:
            everybody = b"Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\n" + everybody + b"Content-Length: 4\r\nConnection: close\r\n\r\nsite")
        await writer.drain()
        writer.close()

    if isinstance(at, Path):
        server: asyncio.Server = await asyncio.start_unix_server(connected, at)
    else:
        server = await asyncio.start_server(connected, "127.0.0.1", at)
    try:
        yield asked
    finally:
        await stop_listening(server)
        await server.wait_closed()


async def get(gateway: Gateway, path: str, *, password: str = "", **headers: str) -> Answer:
    own = {"Authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()} if password else {}
    return await ask(gateway.https_port, path, headers={**own, **headers}, tls=browser(gateway))


async def upgraded(gateway: Gateway, path: str, **headers: str) -> bytes:
    """Open a WebSocket, send four bytes, return what comes back."""
    request = request_bytes(path, method="GET", headers={"Upgrade": "websocket", "Connection": "Upgrade", **headers})
    async with asyncio.timeout(60), sent(gateway.https_port, request, browser(gateway)) as (reader, writer):
        assert (await read_head(reader)).status == 101
        writer.write(b"ping")
        return await reader.readexactly(4)


async def test_open_webui_is_the_front_page(gateway: Gateway) -> None:
    async with site(gateway.webui_socket) as asked:
        assert (await get(gateway, "/some/chat?x=1", Cookie="token=1")).body == b"site"
        assert await upgraded(gateway, "/ws/socket.io/?EIO=4") == b"ping"
    assert asked[0][0] == "/some/chat?x=1"
    assert asked[0][1]["cookie"] == "token=1"
    assert asked[0][1]["x-forwarded-proto"] == "https"


async def test_pages_of_other_sites_cannot_read_what_open_webui_answers(gateway: Gateway) -> None:
    async with site(gateway.webui_socket):
        answer = await get(gateway, "/api/config", Origin="https://elsewhere.example")
    assert (answer.body, [name for name in answer.headers if name.startswith("access-control")]) == (b"site", [])


async def test_when_open_webui_is_down_its_page_says_so_and_the_rest_works(gateway: Gateway) -> None:
    down = await get(gateway, "/")
    assert down.status == 503
    assert b"Open WebUI does not run" in down.body
    assert b"systemctl status open-webui" in down.body
    assert (await get(gateway, "/cluster/")).status == 200
    async with site(gateway.dashboard_port):
        assert (await get(gateway, "/dask/status", password=BOARD)).status == 200


async def test_the_cluster_s_page_leads_to_everything(gateway: Gateway) -> None:
    page = await get(gateway, "/cluster/")
    assert page.headers["content-type"].startswith("text/html")
    assert b'href="/dask/status"' in page.body
    assert (await get(gateway, "/cluster/page.css")).headers["content-type"].startswith("text/css")
    assert (await get(gateway, "/cluster")).headers["location"] == "/cluster/"


async def test_the_dashboard_opens_with_a_dashboard_key_only(gateway: Gateway) -> None:
    async with site(gateway.dashboard_port) as asked:
        unasked = await get(gateway, "/dask/status")
        assert unasked.status == 401
        assert unasked.headers["www-authenticate"].startswith("Basic realm=")
        for password, status in ((KEY, 403), ("wrong", 401), (BOARD + "x", 401), (BOARD, 200)):
            assert (await get(gateway, "/dask/status", password=password)).status == status
        login = base64.b64encode(f":{BOARD}".encode()).decode()
        assert await upgraded(gateway, "/dask/status/ws", Authorization=f"Basic {login}") == b"ping"
    assert [path for path, _ in asked] == ["/dask/status", "/dask/status/ws"]
    assert all("authorization" not in headers for _, headers in asked)


async def test_another_site_cannot_use_a_browser_s_remembered_password(gateway: Gateway) -> None:
    async with site(gateway.dashboard_port) as asked:
        assert (await get(gateway, "/dask/status", password=BOARD, Origin="https://evil.example")).status == 403
        assert (await get(gateway, "/dask/status", password=BOARD, Origin="https://localhost")).status == 200
    assert len(asked) == 1


async def test_when_the_scheduler_is_down_its_page_says_so(gateway: Gateway) -> None:
    answer = await get(gateway, "/dask/status", password=BOARD)
    assert answer.status == 503
    assert b"The Dask scheduler does not run" in answer.body


@pytest.fixture
async def mirrored(gateway: Gateway, tmp_path: Path) -> Gateway:
    """A gateway that serves a models directory with one model of the library and one of a user."""
    root = tmp_path / "models"
    for path, content in (
        (f"blobs/sha256-{HEX}", BLOB),
        ("manifests/registry.ollama.ai/library/llama3.2/3b", MANIFEST),
        ("manifests/registry.ollama.ai/ann/own/latest", MANIFEST),
        ("id_ed25519", b"a key"),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    await mirror_from(gateway, root)
    return gateway


async def mirror_from(gateway: Gateway, root: Path, **changed: Any) -> None:
    generation = gateway.status()["routes"]["generation"] + 1
    gateway.write_routes(routes(generation=generation, mirror={"root": str(root)}, **changed))
    await until(lambda: gateway.status()["routes"]["generation"] == generation)


def node(gateway: Gateway, pem: bytes = b"") -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=gateway.authority.cert_pem.decode())
    context.check_hostname = False  # stunnel checks mirror.clusterai; here the address is localhost
    load_pem(context, pem or certificate(gateway.authority, "gate/pi4", "pi4.gate.clusterai"))
    return context


async def fetch(
    gateway: Gateway, path: str, method: str = "GET", tls: ssl.SSLContext | None = None, **headers: str
) -> Answer:
    return await ask(gateway.mirror_port, path, method=method, headers=headers, tls=tls or node(gateway))


async def test_a_model_can_be_pulled_by_the_registry_s_rules(mirrored: Gateway) -> None:
    for name in ("library/llama3.2/manifests/3b", "ann/own/manifests/latest"):
        manifest = await fetch(mirrored, f"/v2/{name}")
        assert (manifest.status, manifest.body) == (200, MANIFEST)
        assert manifest.headers["content-type"] == "application/vnd.docker.distribution.manifest.v2+json"
    blob = f"/v2/library/llama3.2/blobs/sha256:{HEX}"
    size = await fetch(mirrored, blob, "HEAD")
    assert (size.status, size.headers["content-length"]) == (200, str(len(BLOB)))
    moved = await fetch(mirrored, blob)
    assert (moved.status, moved.headers["location"]) == (307, f"/blobs/sha256-{HEX}")
    whole = await fetch(mirrored, moved.headers["location"])
    assert (whole.status, whole.body) == (200, BLOB)
    assert whole.headers["location"] == moved.headers["location"]  # without it Ollama's pull fails


async def test_a_part_of_a_blob_is_served(mirrored: Gateway) -> None:
    part = await fetch(mirrored, f"/blobs/sha256-{HEX}", Range="bytes=1000-1999")
    assert (part.status, part.body) == (206, BLOB[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(BLOB)}"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/id_ed25519",
        "/blobs/",
        "/blobs/sha256-abc",
        f"/blobs/sha256-{HEX.upper()}",
        f"/blobs/sha256-{HEX}-partial",
        "/blobs/%2e%2e/id_ed25519",
        "/blobs/..%2fid_ed25519",
        "/v2/library/llama3.2/manifests/..",
        "/v2/../../id_ed25519/manifests/a",
        "/v2/library/%2e%2e/manifests/3b",
        "/v2/library/llama3.2/manifests/3b%2f..%2f..",
        "/v2/library/llama3.2/manifests/",
        "/v2/library/llama3.2/manifests/70b",
        "/v2/library/llama3.2/blobs/sha256:" + "0" * 64,
        "/v2/a/b/c/manifests/3b",
        "/v2/library/llama3.2/blobs/" + HEX,
        "/manifests/registry.ollama.ai/library/llama3.2/3b",
        "/v2/library/.hidden/manifests/3b",
        "/v2/library/llama3.2/manifests/3b%00",
        "/v2/library/llama3.2/tags/list",
        "/v2/_catalog",
    ],
)
async def test_nothing_else_is_served(mirrored: Gateway, path: str) -> None:
    for method in ("GET", "HEAD"):
        assert (await fetch(mirrored, path, method)).status in {400, 404}


async def test_nobody_writes_to_the_mirror(mirrored: Gateway) -> None:
    for method in ("PUT", "DELETE", "PATCH"):
        assert (await fetch(mirrored, f"/blobs/sha256-{HEX}", method)).status == 403


async def test_the_mirror_wants_a_certificate_that_is_not_revoked(mirrored: Gateway, tmp_path: Path) -> None:
    path, pem = f"/blobs/sha256-{HEX}", certificate(mirrored.authority, "node/pi4")
    nobody = browser(mirrored)
    nobody.check_hostname = False
    without = await ask(mirrored.mirror_port, path, tls=nobody)
    assert without.status == 400
    assert BLOB not in without.body
    assert (await fetch(mirrored, path, tls=node(mirrored, pem))).status == 200
    await mirror_from(mirrored, tmp_path / "models", revoked_serials=[serial_of(pem[pem.index(b"-----BEGIN CERT") :])])
    assert (await fetch(mirrored, path, tls=node(mirrored, pem))).status == 403
    assert (await fetch(mirrored, path)).status == 200


async def test_without_models_of_its_own_the_server_mirrors_nothing(gateway: Gateway) -> None:
    assert (await fetch(gateway, f"/blobs/sha256-{HEX}")).status == 404


async def test_a_rate_limit_holds(mirrored: Gateway, tmp_path: Path) -> None:
    """One part of a small blob: all of the rate. nginx gives the first second's bytes at once."""
    settings = {"loopback_without_key": False, "mirror_bytes_per_second": len(BLOB) // 4}
    await mirror_from(mirrored, tmp_path / "models", settings=settings)
    begun = asyncio.get_running_loop().time()
    assert (await fetch(mirrored, f"/blobs/sha256-{HEX}")).body == BLOB
    assert asyncio.get_running_loop().time() - begun > 2


async def test_port_80_sends_browsers_to_https_beside_another_default_site(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    shipped = (ROOT / "nginx/redirect.conf").read_text()
    redirect = shipped.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("listen [::]:80;", "")
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {temporary} {redirect}"
        f"server {{ listen 127.0.0.1:{port} default_server; location / {{ return 204; }} }} }}"
    )
    command = ("/usr/sbin/nginx", "-e", "stderr", "-c", str(tmp_path / "nginx.conf"))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        await until(lambda: can_connect(port))
        for host in ("tower", "tower.local", "tower.fritz.lan", "192.0.2.10", "[2001:db8::1]"):
            answer = await ask(port, "/a?b=c", headers={"Host": host})
            assert (answer.status, answer.headers["location"]) == (301, f"https://{host}/a?b=c")
        for host in ("www.example.com", "local.example.com"):
            assert (await ask(port, "/.well-known/acme-challenge/x", headers={"Host": host})).status == 204
    finally:
        process.terminate()
        await process.wait()
