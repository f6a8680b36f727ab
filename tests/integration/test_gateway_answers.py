"""What the gateway answers itself: listings, refusals in each client's shape, and nothing else."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.gateway import Gateway, routes, running_gateway
from support.raw_http import ask
from support.waiting import until

KEY = "cak1.aaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaa"
TAG = {
    "name": "llama3.2:3b",
    "model": "llama3.2:3b",
    "modified_at": "2026-01-02T03:04:05.123456789+01:00",
    "size": 2019393189,
    "digest": "a80c" * 16,
    "details": {"families": [], "family": "llama", "parameter_size": "3.2B"},
    "capabilities": [],
}
USER_TAG = {**TAG, "name": "ann/own:latest", "model": "ann/own:latest", "modified_at": "2026-03-01T00:00:00Z"}
LOADED = {"model": "llama3.2:3b", "name": "llama3.2:3b", "size_vram": 1, "expires_at": "2026-01-02T03:04:05Z"}
MODELS: dict[str, Any] = {"llama3.2:3b": {}, "ann/own:latest": {}, "gemma3:4b": {}}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(tmp_path) as running:
        yield running


@pytest.fixture
async def told(gateway: Gateway) -> Gateway:
    listing = {"version": "0.31.1", "tags": [TAG, USER_TAG], "ps": [LOADED]}
    table = routes({}, MODELS, listing=listing)
    table["models"]["gemma3:4b"].update(reason="gemma3:4b is being fetched to tower: 61 %", retry_after_seconds=30)
    gateway.write_routes(table)
    gateway.write_keys({KEY: {"id": "aaaaaaaa"}})
    await until(lambda: gateway.status()["keys"]["generation"] and gateway.status()["routes"]["generation"])
    return gateway


async def test_listings_are_the_daemon_s_own_word_for_word(told: Gateway) -> None:
    assert (await ask(told.port, "/api/tags", key=KEY)).json == {"models": [TAG, USER_TAG]}
    assert (await ask(told.port, "/api/ps", key=KEY)).json == {"models": [LOADED]}
    assert (await ask(told.port, "/api/version", key=KEY)).json == {"version": "0.31.1"}


async def test_models_are_listed_for_openai_s_clients(told: Gateway) -> None:
    listed = (await ask(told.port, "/v1/models", key=KEY)).json
    llama = {"id": "llama3.2:3b", "object": "model", "created": 1767319445, "owned_by": "library"}
    own = {"id": "ann/own:latest", "object": "model", "created": 1772323200, "owned_by": "ann"}
    assert listed == {"object": "list", "data": [llama, own]}
    assert (await ask(told.port, "/v1/models/llama3.2:3b", key=KEY)).json == llama
    assert (await ask(told.port, "/v1/models/ann/own", key=KEY)).json == own


async def test_a_gateway_that_was_never_told_anything_lists_nothing(gateway: Gateway) -> None:
    gateway.write_keys({KEY: {"id": "aaaaaaaa"}})
    await until(lambda: gateway.status()["keys"]["generation"])
    assert (await ask(gateway.port, "/api/tags", key=KEY)).body == b'{"models":[]}'
    assert (await ask(gateway.port, "/v1/models", key=KEY)).json["data"] == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_clients_that_probe_find_an_ollama(told: Gateway, method: str) -> None:
    answer = await ask(told.port, "/", method=method)
    assert answer.status == 200
    assert answer.headers["content-length"] == "17"
    assert answer.body == (b"Ollama is running" if method == "GET" else b"")


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("/api/pull", "clusteractl model pull"),
        ("/api/push", "clusteractl model list"),
        ("/api/create", "clusteractl model place"),
        ("/api/copy", "clusteractl model place"),
        ("/api/delete", "clusteractl model rm"),
        ("/api/blobs/sha256:" + "a" * 64, "clusteractl model pull"),
    ],
)
async def test_managing_models_is_refused_with_the_command_to_use(told: Gateway, path: str, command: str) -> None:
    for method in ("POST", "DELETE"):
        answer = await ask(told.port, path, {"model": "llama3.2:3b"}, key=KEY, method=method)
        assert (answer.status, answer.code) == (403, "use-clusteractl")
        assert command in answer.json["hint"]


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/",
        "/api/me",
        "/api/signout",
        "/api/experimental/web_search",
        "/debug/pprof/",
        "/v1/audio/transcriptions",
        "/metrics",
        "/status",
        "/api/chat/",
        "/api//chat2",
        "/API/CHAT",
        "/v1/models/",
        "/a/%2e%2e/etc",
    ],
)
async def test_a_path_that_is_not_in_the_list_is_not_there(told: Gateway, path: str) -> None:
    answer = await ask(told.port, path, {"model": "llama3.2:3b"}, key=KEY)
    assert (answer.status, answer.code) == (404, "no-such-path")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/messages"])
async def test_a_path_that_is_posted_to_is_not_read_from(told: Gateway, path: str) -> None:
    """nginx would send a GET again after a node broke off."""
    for method in ("GET", "PUT", "DELETE"):
        answer = await ask(told.port, path, b'{"model":"llama3.2:3b"}', key=KEY, method=method)
        assert (answer.status, answer.code) == (405, "wrong-method")


async def test_an_unknown_model_is_answered_with_the_closest_names(told: Gateway) -> None:
    answer = await ask(told.port, "/api/chat", {"model": "lama3.2:3b"}, key=KEY)
    assert (answer.status, answer.code) == (404, "no-such-model")
    assert 'model "lama3.2:3b" is not in this cluster' in answer.json["error"]
    assert "llama3.2:3b" in answer.json["hint"]
    assert "gemma3" not in answer.json["hint"]
    other_tag = await ask(told.port, "/api/chat", {"model": "gemma3"}, key=KEY)
    assert "gemma3:4b" in other_tag.json["hint"]


async def test_a_name_that_is_none_costs_nothing_and_breaks_nothing(told: Gateway) -> None:
    for name in (
        "a" * 100000,
        "\n\u0000",
        "é",
        "../../etc/passwd",
        "a b",
        "http://x/y/z",
        '"',
        "x" * 80 + ":" + "y" * 80,
    ):
        answer = await ask(told.port, "/api/chat", {"model": name}, key=KEY)
        assert (answer.status, answer.code) == (404, "no-such-model")
        assert len(answer.body) < 1000


async def test_a_model_that_nobody_can_serve_says_why_and_when_to_ask_again(told: Gateway) -> None:
    answer = await ask(told.port, "/api/chat", {"model": "gemma3:4b"}, key=KEY)
    assert (answer.status, answer.code) == (503, "no-node")
    assert "is being fetched to tower: 61 %" in answer.json["error"]
    assert answer.headers["retry-after"] == "30"


async def test_openai_s_clients_get_the_error_that_they_expect(told: Gateway) -> None:
    answer = await ask(told.port, "/v1/chat/completions", {"model": "gemma3:4b"}, key=KEY)
    error = answer.json["error"]
    assert (answer.status, error["code"], error["type"], error["param"]) == (503, "no-node", "server_error", None)
    assert "clusteractl why gemma3:4b" in error["message"]
    assert answer.headers["content-type"] == "application/json"
    for key, kind in (("", "authentication_error"), (KEY, "invalid_request_error")):
        assert (await ask(told.port, "/v1/embeddings", {"model": "x"}, key=key)).json["error"]["type"] == kind


async def test_anthropic_s_clients_get_the_error_that_they_expect(told: Gateway) -> None:
    answer = await ask(told.port, "/v1/messages", {"model": "gemma3:4b"}, headers={"x-api-key": KEY})
    assert answer.json["type"] == "error"
    assert (answer.status, answer.json["error"]["type"], answer.code) == (503, "overloaded_error", "no-node")
    assert (await ask(told.port, "/v1/messages", {"model": "x"})).json["error"]["type"] == "authentication_error"


async def test_status_and_metrics_are_on_a_port_of_their_own(told: Gateway) -> None:
    await ask(told.port, "/api/chat", {"model": "gemma3:4b"}, key=KEY)
    assert told.status()["models"] == 3
    want = 'clusterai_gateway_requests_total{model="gemma3:4b",node="",status="503"} 1'
    await until(lambda: want in told.status("/metrics"))
    assert "clusterai_gateway_generation" in told.status("/metrics")
    lines = [line for line in told.status("/metrics").splitlines() if not line.startswith("#")]
    assert all(float(line.rpartition(" ")[2]) >= 0 for line in lines)


async def test_status_and_metrics_are_not_for_a_web_page_under_another_name(told: Gateway) -> None:
    for path in ("/status", "/metrics"):
        assert (await ask(told.status_port, path, method="GET", headers={"Host": "elsewhere.example"})).status == 403


async def test_the_log_is_json_whatever_was_asked(told: Gateway) -> None:
    for path in ('/"quoted"', "/%22%0a%00%ff{}", "/" + "x" * 3000, "/\\"):
        await ask(told.port, path, key=KEY)
    nonsense = (
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\x01\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
        b'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1","x":"\r\n\r\n',
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -inf\r\n\r\n",
    )
    for line in nonsense:
        reader, writer = await asyncio.open_connection("127.0.0.1", told.port)
        writer.write(line)
        async with asyncio.timeout(30):
            await reader.read()
        writer.close()
    await until(lambda: len(told.log_lines()) >= 9)
    assert all("status" in line for line in told.log_lines())
