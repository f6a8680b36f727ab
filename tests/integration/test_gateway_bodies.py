"""Bodies: whatever is sent, the model that is checked is the model that runs, and nothing brings the gateway down."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.gates import Gate, running_gate
from support.gateway import Gateway, routes, running_gateway
from support.raw_http import ask, pieces, read_head, request_bytes, sent
from support.waiting import until

KEY, LIMITED = (f"cak1.{letter * 8}.{letter * 26}" for letter in "ab")
HERE = {"tower": {"loaded": True, "fit": 1}}
GOOD, SECRET = "good:latest", "secret:latest"
MEGABYTE = 1 << 20


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(tmp_path) as running:
        yield running


@pytest.fixture
async def gate(gateway: Gateway) -> AsyncIterator[Gate]:
    async with running_gate("tower", gateway.authority) as running:
        gateway.write_routes(routes({"tower": running.port}, {GOOD: HERE, SECRET: HERE}))
        gateway.write_keys({KEY: {"id": "aaaaaaaa"}, LIMITED: {"id": "bbbbbbbb", "models": [GOOD]}})
        await until(lambda: gateway.status()["keys"]["generation"] and gateway.status()["routes"]["generation"])
        yield running


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"null",
        b"[]",
        b'"model"',
        b"{",
        b'{"model',
        b'{"model"',
        b'{"model":',
        b'{"model":"good',
        b'{"model":"good"',
        b'{"model":"good",',
        b'{"model":"good"}x',
        b'{"model":"good"}{}',
        b'{"model":"good",}',
        b"{,}",
        b"{model:1}",
        b'{"a":[1,"model":"good"}',
        b'\xef\xbb\xbf{"model":"good"}',
        b"\x00" * 100,
        b"model=good",
        b'{"a" "b"}',
        b'{"a":}',
    ],
)
async def test_what_is_no_json_object_is_refused(gateway: Gateway, gate: Gate, body: bytes) -> None:
    answer = await ask(gateway.port, "/api/chat", body, key=KEY)
    assert (answer.status, answer.code) == (400, "bad-json")
    assert gate.arrived == []


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"messages":[]}',
        '{"model":""}',
        '{"model":7}',
        '{"model":null}',
        '{"model":["good"]}',
        '{"a":{"model":"good"}}',
    ],
)
async def test_a_body_without_a_model_is_refused(gateway: Gateway, gate: Gate, body: str) -> None:
    answer = await ask(gateway.port, "/api/chat", body.encode(), key=KEY)
    assert (answer.status, answer.code) == (400, "no-model")


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"good","model":"secret"}',
        '{"model":"good","Model":"secret"}',
        '{"MODEL":"secret"}',
        '{"model":"good","mod\\u0065l":"secret"}',
        '{"model":"good","\\u006d\\u006f\\u0064\\u0065\\u006c":"secret"}',
        '{"model":"good","messages":[{"role":"user","content":"\\\\"}],"mOdel":"secret"}',
        '{"model":"good","name":"secret"}',
        '{"name":"good","NAME":"secret"}',
        '{"name":"good","name":"secret"}',
        '{"model":"good","x":"\\\\\\"","\\u004dodel":"secret"}',
    ],
)
async def test_a_body_that_two_decoders_would_read_differently_is_refused(
    gateway: Gateway, gate: Gate, body: str
) -> None:
    answer = await ask(gateway.port, "/api/chat", body.encode(), key=LIMITED)
    assert (answer.status, answer.code) == (400, "ambiguous-model")
    assert gate.arrived == []


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"good"}',
        ' {\n"model" :\t"good" } \r\n',
        '{"messages":[{"role":"user","content":"{\\"model\\":\\"secret\\"}"}],"model":"good"}',
        '{"tools":[{"name":"secret","Model":"secret","model":{"model":"secret"}}],"model":"good"}',
        '{"a":"\\\\","model":"good","b":"\\\\\\""}',
        '{"m\\u006fdel":"g\\u006fod"}',
        '{"name":"good"}',
        '{"name":"GOOD:latest","modell":"secret","mode":"secret"}',
        '{"model":"good","name":"good"}',
        '{"a":-1.5e3,"b":true,"c":null,"d":[],"e":{},"model":"registry.ollama.ai/library/good"}',
    ],
)
async def test_only_the_object_s_own_keys_name_the_model(gateway: Gateway, gate: Gate, body: str) -> None:
    answer = await ask(gateway.port, "/api/chat", body.encode(), key=LIMITED, headers={"X-Conversation-Id": "1"})
    assert answer.status == 200, answer.body
    assert gate.arrived[0].body == body.encode()


async def test_deep_nesting_is_refused_and_some_is_not(gateway: Gateway, gate: Gate) -> None:
    for depth, status in ((500, 200), (513, 400), (1_000_000, 400)):
        deep = b'{"x":' + b"[" * depth + b"]" * depth + b',"model":"good"}'
        assert (await ask(gateway.port, "/api/chat", deep, key=KEY)).status == status


@pytest.mark.parametrize("size", [1000, 60_000, 66_000, 300_000, 5 * MEGABYTE, 63 * MEGABYTE])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_any_size_arrives_as_it_was_sent(
    gateway: Gateway, gate: Gate, size: int, chunked: bool
) -> None:
    body = json.dumps({"images": ["A" * size], "model": GOOD}).encode()
    headers = {"Authorization": f"Bearer {KEY}"}
    data = body
    if chunked:
        headers["Transfer-Encoding"] = "chunked"
        step = 200_000
        parts = [body[at : at + step] for at in range(0, len(body), step)]
        data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    async with (
        asyncio.timeout(240),
        sent(gateway.port, request_bytes("/api/chat", data, headers=headers)) as (reader, _),
    ):
        assert (await read_head(reader)).status == 200
    assert gate.arrived[0].body == body


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_64_megabytes_is_refused(gateway: Gateway, gate: Gate, chunked: bool) -> None:
    headers = {
        "x-api-key": KEY,
        **({"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(64 * MEGABYTE + 1)}),
    }
    request = request_bytes("/v1/chat/completions", headers=headers)
    async with asyncio.timeout(240), sent(gateway.port, request) as (reader, writer):
        if chunked:
            part = b"100000\r\n" + b"x" * MEGABYTE + b"\r\n"
            try:
                for _ in range(66):
                    writer.write(part)
                    await writer.drain()
            except ConnectionError:
                pass
        head = await read_head(reader)
        text = b"".join([piece async for piece in pieces(reader, head.headers)])
    assert head.status == 413
    assert json.loads(text)["error"]["code"] == "too-large"
    assert gate.arrived == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_http_2_works(gateway: Gateway, gate: Gate, chunked: bool, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"model": GOOD, "x": "y" * 100_000}))
    command = [
        "curl",
        "-sS",
        "--http2",
        "--cacert",
        str(gateway.state / "cluster-ca.pem"),
        "-w",
        "\n%{http_version} %{http_code}",
    ]
    command += ["-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json", "--data-binary", "@-"]
    command += ["-H", "Content-Length:"] if chunked else []
    url = f"https://localhost:{gateway.tls_port}/api/chat"
    process = await asyncio.create_subprocess_exec(
        *command, url, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, errors = await asyncio.wait_for(process.communicate(body.read_bytes()), 60)
    assert out.decode().splitlines()[-1] == "2 200", (out, errors)
    assert gate.arrived[0].body == body.read_bytes()


async def test_a_slow_client_holds_up_nobody(gateway: Gateway, gate: Gate) -> None:
    body = json.dumps({"model": GOOD}).encode()
    headers = {"x-api-key": KEY, "Content-Length": str(len(body))}
    async with sent(gateway.port, request_bytes("/api/chat", body[:5], headers=headers)) as (reader, writer):
        for _ in range(5):
            assert (await ask(gateway.port, "/api/chat", {"model": GOOD}, key=KEY)).status == 200
        writer.write(body[5:])
        assert (await read_head(reader)).status == 200


async def test_a_client_that_goes_away_while_it_sends_leaves_nothing(gateway: Gateway, gate: Gate) -> None:
    headers = {"x-api-key": KEY, "Content-Length": "1000000"}
    async with sent(gateway.port, request_bytes("/api/chat", b'{"model":"good",', headers=headers)):
        await asyncio.sleep(0.1)
    await until(lambda: [line for line in gateway.log_lines() if line["status"] in {400, 408, 499}])
    assert gate.arrived == []
    assert not [path for path in (gateway.directory / "cache").rglob("*") if path.is_file()]
