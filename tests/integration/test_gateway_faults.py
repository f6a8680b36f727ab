"""Nodes that fail in each way: before the request was sent another one is tried, afterwards never."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from clusterai.models import GATEWAY_NAME
from clusterai.pki import CertificateAuthority
from support.gates import breaks_off, names_itself, running_gate, streams
from support.gateway import CLUSTER, Gateway, certificate, gate_certificate, routes, running_gateway
from support.holes import black_hole, mute
from support.ports import free_ports
from support.raw_http import Answer, ask, pieces, read_head, request_bytes, sent
from support.waiting import can_connect, until

KEY, MODEL = "cak1.aaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaa", "llama3.2:3b"
HERE = {"loaded": True, "fit": 1}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(tmp_path) as running:
        running.write_keys({KEY: {"id": "aaaaaaaa"}})
        yield running


async def use(gateway: Gateway, nodes: dict[str, int]) -> None:
    """Give the gateway a table in which every node has the model; the first by name is tried first."""
    generation = gateway.status()["routes"]["generation"] + 1
    gateway.write_routes(routes(nodes, {MODEL: dict.fromkeys(nodes, HERE)}, generation=generation))
    await until(
        lambda: gateway.status()["routes"]["generation"] == generation and gateway.status()["keys"]["generation"]
    )


async def chat(gateway: Gateway) -> Answer:
    return await ask(gateway.port, "/api/chat", {"model": MODEL}, key=KEY)


def chat_request() -> bytes:
    return request_bytes("/api/chat", json.dumps({"model": MODEL}).encode(), headers={"x-api-key": KEY})


async def test_a_refused_connection_costs_the_client_nothing_but_the_retry(gateway: Gateway) -> None:
    async with running_gate("b", gateway.authority) as b:
        await use(gateway, {"a": free_ports(1)[0], "b": b.port})
        answer = await chat(gateway)
        assert (answer.status, answer.json["node"], answer.headers["x-clusterai-reason"]) == (200, "b", "retried")
        assert gateway.status()["nodes"]["a"]["failing"] is True
        assert gateway.status()["nodes"]["b"]["failing"] is False
        assert (await chat(gateway)).headers["x-clusterai-reason"] == "loaded"  # a was left alone
        await until(lambda: len([line for line in gateway.log_lines() if line["path"] == "/api/chat"]) == 2)
    first = next(line for line in gateway.log_lines() if line["path"] == "/api/chat")
    assert (first["node"], first["reason"], first["first_byte_seconds"] >= 0) == ("b", "retried", True)
    assert len(b.arrived) == 2


@pytest.mark.parametrize("hole", [black_hole, mute])
async def test_a_node_that_does_not_answer_is_left_within_a_second(gateway: Gateway, hole: type[Iterator[int]]) -> None:
    async with running_gate("b", gateway.authority) as b:
        with hole() as port:  # type: ignore[attr-defined]
            took, loop = [], asyncio.get_running_loop()
            for _ in range(3):
                await use(gateway, {"b": b.port})  # forgets that a fails
                await until(lambda: "a" not in gateway.status()["nodes"])
                await asyncio.sleep(2.5)
                await use(gateway, {"a": port, "b": b.port})
                begun = loop.time()
                assert (await chat(gateway)).json["node"] == "b"
                took.append(loop.time() - begun)
                begun = loop.time()
                assert (await chat(gateway)).json["node"] == "b"
                assert loop.time() - begun < 30
    assert 0.6 < min(took) < 1.0


async def test_a_node_that_answers_again_gets_requests_again(gateway: Gateway) -> None:
    port = free_ports(1)[0]
    async with running_gate("b", gateway.authority) as b:
        await use(gateway, {"a": port, "b": b.port})
        assert (await chat(gateway)).json["node"] == "b"
        async with running_gate("a", gateway.authority, port=port):
            await until(lambda: gateway.status()["nodes"]["a"]["failing"] is False)
            assert (await chat(gateway)).json["node"] == "a"
        assert (await chat(gateway)).json["node"] == "b"


async def test_three_nodes_are_tried_and_then_the_client_is_told(gateway: Gateway) -> None:
    ports = free_ports(4)
    await use(gateway, dict(zip("abcd", ports, strict=True)))
    answer = await chat(gateway)
    assert (answer.status, answer.code) == (503, "no-node")
    assert answer.headers["retry-after"] == "2"
    assert [gateway.status()["nodes"][node]["failing"] for node in "abcd"] == [True, True, True, False]
    answer = await chat(gateway)
    assert "a, b, c, d do not answer" in answer.json["error"]
    await until(lambda: all(node["in_flight"] == 0 for node in gateway.status()["nodes"].values()))


async def test_what_is_no_http_is_refused_and_logged_like_everything_else(gateway: Gateway) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 100 + b"\r\n\r\n"):
        async with sent(gateway.port, nonsense) as (reader, _):
            assert b"400" in await asyncio.wait_for(reader.readline(), 60)
    await until(lambda: len(gateway.log_lines()) == 3)
    assert [line["status"] for line in gateway.log_lines()] == [400, 400, 400]
    assert "failed to run" not in gateway.errors()


async def test_a_request_that_was_sent_is_never_sent_again(gateway: Gateway) -> None:
    async with (
        running_gate("a", gateway.authority, breaks_off) as a,
        running_gate("b", gateway.authority) as b,
    ):
        await use(gateway, {"a": a.port, "b": b.port})
        answer = await chat(gateway)
    assert (answer.status, answer.code) == (502, "node-failed")
    assert "a broke off" in answer.json["error"]
    assert (len(a.arrived), len(b.arrived)) == (1, 0)
    await until(lambda: gateway.status()["nodes"]["a"]["in_flight"] == 0)
    await until(gateway.log_lines)
    (line,) = gateway.log_lines()
    assert (line["status"], line["node"]) == (502, "a")
    assert "node-failed" not in gateway.access_log.read_text()


async def test_an_answer_that_breaks_off_is_cut_not_repeated(gateway: Gateway) -> None:
    async def half(gate: object, request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        writer.close()

    async with running_gate("a", gateway.authority, half) as a, running_gate("b", gateway.authority) as b:
        await use(gateway, {"a": a.port, "b": b.port})
        async with sent(gateway.port, chat_request()) as (reader, _):
            head = await read_head(reader)
            with pytest.raises(asyncio.IncompleteReadError):
                [piece async for piece in pieces(reader, head.headers)]
    assert (len(a.arrived), len(b.arrived)) == (1, 0)


async def stolen(authority: CertificateAuthority) -> bytes:
    return gate_certificate(CertificateAuthority.create("test cluster", CLUSTER), "a")


async def of_another_node(authority: CertificateAuthority) -> bytes:
    return gate_certificate(authority, "b")


async def of_the_gateway(authority: CertificateAuthority) -> bytes:
    return certificate(authority, "gateway", GATEWAY_NAME)


async def expired(authority: CertificateAuthority) -> bytes:
    pem = gate_certificate(authority, "a", lifetime=timedelta(seconds=1))
    await asyncio.sleep(2)
    return pem


@pytest.mark.parametrize("wrong", [stolen, of_another_node, of_the_gateway, expired])
async def test_a_gate_with_a_wrong_certificate_gets_no_prompt(gateway: Gateway, wrong: object) -> None:
    pem = await wrong(gateway.authority)  # type: ignore[operator]
    async with (
        running_gate("a", gateway.authority, pem=pem) as a,
        running_gate("b", gateway.authority) as b,
    ):
        await use(gateway, {"a": a.port, "b": b.port})
        assert (await chat(gateway)).json["node"] == "b"
        for _ in range(5):  # whatever a probe finds meanwhile
            await asyncio.sleep(0.5)
            assert (await chat(gateway)).json["node"] == "b"
    assert a.arrived == []


async def test_a_gate_without_tls_gets_no_prompt(gateway: Gateway) -> None:
    async with (
        running_gate("a", gateway.authority, plain=True) as a,
        running_gate("b", gateway.authority) as b,
    ):
        await use(gateway, {"a": a.port, "b": b.port})
        assert (await chat(gateway)).json["node"] == "b"
    assert a.arrived == []


async def test_the_model_list_answers_at_once_with_half_the_nodes_black_holed(gateway: Gateway) -> None:
    async with running_gate("n0", gateway.authority) as alive:
        with black_hole() as port:
            nodes = {f"n{number}": port if number % 2 else alive.port for number in range(10)}
            await use(gateway, nodes)
            waiting = [asyncio.create_task(chat(gateway)) for _ in range(10)]
            times, loop = [], asyncio.get_running_loop()
            for _ in range(200):
                begun = loop.time()
                assert (await ask(gateway.port, "/api/tags", key=KEY)).status == 200
                times.append(loop.time() - begun)
            await asyncio.gather(*waiting)
    assert sorted(times)[len(times) // 2] < 0.05  # tests/bench has the p99: this machine may be busy


async def test_a_killed_gateway_comes_back_with_its_table_without_the_daemon(gateway: Gateway) -> None:
    async with running_gate("a", gateway.authority) as a:
        await use(gateway, {"a": a.port})
        took, loop = [], asyncio.get_running_loop()
        for _ in range(3):
            gateway.kill()
            begun = loop.time()
            gateway.start()
            assert (await chat(gateway)).status == 200
            took.append(loop.time() - begun)
    assert min(took) <= 2.0


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format":2,"generation":1}',
        '{"format":1}',
        json.dumps(routes({"a": 99999}, {}, generation=9)),
        json.dumps({**routes(), "nodes": {"a": {"host": "evil.example", "port": 1, "slots": 1}}}),
        json.dumps({**routes(), "models": {"m:latest": 1}}),
        json.dumps(routes({}, {'m"': {}})),
        json.dumps(routes({}, {"Not/Normalised": {}})),
        json.dumps({**routes(), "listing": {}}),
    ],
)
async def test_a_table_that_cannot_be_used_is_refused_and_the_old_one_stays(gateway: Gateway, bad: str) -> None:
    async with running_gate("a", gateway.authority) as a:
        await use(gateway, {"a": a.port})
        gateway.write_routes(bad)
        await until(lambda: gateway.status()["routes"]["problem"])
        gateway.write_keys(bad)
        await until(lambda: gateway.status()["keys"]["problem"])
        assert (await chat(gateway)).status == 200
        assert gateway.errors().count("routes.json is refused") == 1
        await use(gateway, {"a": a.port})
        assert gateway.status()["routes"]["problem"] == ""


async def test_a_table_that_is_gone_changes_nothing(gateway: Gateway) -> None:
    async with running_gate("a", gateway.authority) as a:
        await use(gateway, {"a": a.port})
        (gateway.state / "routes.json").unlink()
        await until(lambda: gateway.status()["routes"]["problem"])
        assert (await chat(gateway)).status == 200


async def test_an_open_stream_survives_a_reload(gateway: Gateway) -> None:
    async with running_gate("a", gateway.authority, streams(40, 0.1)) as a:
        await use(gateway, {"a": a.port})
        async with asyncio.timeout(120), sent(gateway.port, chat_request()) as (reader, _):
            head = await read_head(reader)
            (old,) = gateway.worker_ids()
            gateway.renew()
            gateway.reload()
            await until(lambda: [worker for worker in gateway.worker_ids() if worker != old])
            await until(lambda: gateway.status()["nodes"].get("a", {}).get("in_flight") == 1)
            lines = [json.loads(piece)["n"] async for piece in pieces(reader, head.headers)]
        assert lines == list(range(40))
        await until(lambda: gateway.worker_ids() != [] and old not in gateway.worker_ids())
        await until(lambda: gateway.status()["nodes"]["a"]["in_flight"] == 0)


async def test_a_worker_process_that_dies_takes_its_counts_with_it(gateway: Gateway) -> None:
    async with running_gate("a", gateway.authority, streams(1000, 0.1)) as a:
        await use(gateway, {"a": a.port})
        async with sent(gateway.port, chat_request()) as (reader, _):
            await read_head(reader)
            await until(lambda: gateway.status()["nodes"]["a"]["in_flight"] == 1)
            (worker,) = gateway.worker_ids()
            await asyncio.create_subprocess_exec("kill", "-9", str(worker))
            await until(lambda: gateway.worker_ids() not in ([], [worker]))
            await until(lambda: gateway.status()["nodes"]["a"]["in_flight"] == 0)
            assert (await ask(gateway.port, "/")).status == 200  # it is the new worker that counts nothing
            assert worker not in gateway.worker_ids()


async def test_a_configuration_that_nginx_refuses_is_never_activated(gateway: Gateway) -> None:
    listen = gateway.listens / "listen-gateway.conf"
    listen.write_text("listen nonsense nonsense;\n")
    refused = gateway.test()
    assert refused.returncode != 0
    assert "listen-gateway.conf" in refused.stderr
    gateway.reload()  # nginx itself keeps the old one too
    await until(lambda: "[emerg]" in gateway.errors())
    assert (await ask(gateway.port, "/")).status == 200


@contextlib.asynccontextmanager
async def stunnel(gateway: Gateway, node: str, behind: int) -> AsyncIterator[int]:
    """Yield the port of a real gate, as on a node: it lets in the gateway and nobody else."""
    home, (port,) = gateway.directory / f"gate-{node}", free_ports(1)
    home.mkdir()
    (home / "gate.pem").write_bytes(gate_certificate(gateway.authority, node))
    (home / "gate.pem").chmod(0o600)
    settings = f"""foreground = yes
pid =
[gate]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{behind}
cert = {home}/gate.pem
key = {home}/gate.pem
CAfile = {gateway.state}/cluster-ca.pem
verifyChain = yes
checkHost = {GATEWAY_NAME}
sslVersionMin = TLSv1.2
"""
    (home / "gate.conf").write_text(settings)
    process = await asyncio.create_subprocess_exec("stunnel", str(home / "gate.conf"), stderr=subprocess.DEVNULL)
    try:
        await until(lambda: can_connect(port))
        yield port
    finally:
        process.terminate()
        await process.wait()


async def test_a_chat_goes_through_a_real_gate(gateway: Gateway) -> None:
    async with (
        running_gate("a", gateway.authority, names_itself, plain=True) as behind,
        stunnel(gateway, "a", behind.port) as port,
    ):
        await use(gateway, {"a": port})
        answer = await chat(gateway)
        assert (answer.status, answer.json["node"]) == (200, "a"), gateway.errors()
    assert len(behind.arrived) == 1
