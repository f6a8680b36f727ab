"""The double of Ollama by itself: what it answers, its files, its memory, its queue, and how it fails."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from fakes.http import Answer, asked
from fakes.ollama import FakeOllama, damage_blob, fake_ollama
from fakes.ollama.scheduler import BUSY
from fakes.registry import MadeModel, make_model
from support.waiting import until

LLAMA, EMBEDDER = make_model(), make_model("nomic-embed-text", architecture="nomic-bert", embeds=True, embedding=64)


@pytest.fixture
async def ollama(tmp_path: Path) -> AsyncIterator[FakeOllama]:
    LLAMA.install(tmp_path)
    EMBEDDER.install(tmp_path)
    async with fake_ollama(tmp_path) as running:
        yield running


async def call(
    ollama: FakeOllama, path: str, body: Any = None, method: str = "", headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Ask once; return status and what the body says, as JSON where it is that."""
    data = json.dumps(body).encode() if body is not None else b""
    async with asked(method or ("POST" if data else "GET"), ollama.url + path, headers, data) as answer:
        text = await answer.body()
    return answer.status, json.loads(text) if answer.headers["content-type"].startswith("application/json") else text


async def lines(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await answer.body()).splitlines()]


async def streamed(ollama: FakeOllama, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with asked("POST", ollama.url + path, None, json.dumps(body).encode()) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        return await lines(answer)


async def loaded(ollama: FakeOllama) -> list[dict[str, Any]]:
    return list((await call(ollama, "/api/ps"))[1]["models"])


def generation(**more: Any) -> dict[str, Any]:
    return {"model": "llama3.2:3b", "prompt": "Why?", **more}


async def test_it_says_that_it_runs_and_which_version(ollama: FakeOllama) -> None:
    assert await call(ollama, "/") == (200, b"Ollama is running")
    assert await call(ollama, "/api/version") == (200, {"version": "0.31.1"})
    assert await call(ollama, "/api/me") == (404, b"404 page not found")
    assert (await call(ollama, "/api/chat"))[0] == 405


async def test_lists_have_ollamas_fields(ollama: FakeOllama) -> None:
    entries = {entry["name"]: entry for entry in (await call(ollama, "/api/tags"))[1]["models"]}
    assert set(entries) == {"llama3.2:3b", "nomic-embed-text:latest"}
    entry = entries["llama3.2:3b"]
    assert set(entry) == {"name", "model", "modified_at", "size", "digest", "details", "capabilities"}
    assert (entry["digest"], entry["size"]) == (LLAMA.digest, LLAMA.size)
    assert entry["details"]["quantization_level"] == "Q4_K_M"
    assert entry["capabilities"] == ["completion", "tools"]
    assert entries["nomic-embed-text:latest"]["capabilities"] == ["embedding"]


async def test_show_has_what_a_memory_estimate_needs(ollama: FakeOllama) -> None:
    _, told = await call(ollama, "/api/show", {"model": "LLAMA3.2:3b"})
    facts = told["model_info"]
    assert facts["general.architecture"] == "llama"
    names = ("block_count", "attention.head_count", "attention.head_count_kv", "embedding_length", "context_length")
    assert [facts[f"llama.{name}"] for name in names] == [28, 24, 8, 3072, 131072]
    assert "llama.attention.key_length" not in facts
    assert await call(ollama, "/api/show", {"name": "x"}) == (404, {"error": "model 'x' not found"})


async def test_an_answer_streams_and_ends_with_figures(ollama: FakeOllama) -> None:
    *parts, last = await streamed(ollama, "/api/generate", generation())
    assert all(not part["done"] for part in parts)
    assert len(parts) == last["eval_count"] == 12
    assert (last["done"], last["done_reason"], last["response"]) == (True, "stop", "")
    assert last["prompt_eval_count"] == 2
    assert last["total_duration"] >= last["load_duration"] + last["eval_duration"] > 0
    _, whole = await call(ollama, "/api/generate", generation(stream=False, options={"num_predict": 4}))
    assert whole["response"] == "".join(part["response"] for part in parts[:4])
    assert whole["done_reason"] == "length"


async def test_a_chat_streams_messages(ollama: FakeOllama) -> None:
    body = {"model": "llama3.2:3b", "messages": [{"role": "user", "content": "Hello"}]}
    *parts, last = await streamed(ollama, "/api/chat", body)
    assert {part["message"]["role"] for part in parts} == {"assistant"}
    assert last["message"]["content"] == ""
    _, whole = await call(ollama, "/api/chat", {**body, "stream": False, "format": "json"})
    assert json.loads(whole["message"]["content"])


async def test_who_asks_for_what_is_not_there_hears_it(ollama: FakeOllama) -> None:
    missing = {"error": 'model "x" not found, try pulling it first'}
    assert await call(ollama, "/api/generate", generation(model="x")) == (404, missing)
    status, told = await call(ollama, "/v1/chat/completions", {"model": "x", "messages": [{"role": "user"}]})
    assert (status, told["error"]["type"]) == (404, "not_found_error")
    status, told = await call(ollama, "/v1/messages", {"model": "x", "messages": []})
    assert (status, told["type"], told["error"]["type"]) == (404, "error", "not_found_error")
    status, told = await call(ollama, "/api/generate", generation(model="nomic-embed-text"))
    assert (status, told["error"]) == (400, '"nomic-embed-text" does not support chat')


async def test_of_two_models_in_a_body_the_last_counts_whatever_its_case(ollama: FakeOllama) -> None:
    """As Go's decoder does: what a gateway in front has to refuse."""
    body = b'{"model": "llama3.2:3b", "prompt": "a", "MODEL": "evil"}'
    async with asked("POST", ollama.url + "/api/generate", None, body) as answer:
        assert answer.status == 404
        assert b"evil" in await answer.body()


async def test_embeddings_of_both_kinds(ollama: FakeOllama) -> None:
    _, told = await call(ollama, "/api/embed", {"model": "nomic-embed-text", "input": ["a", "b", "a"]})
    a, b, again = told["embeddings"]
    assert len(a) == 64
    assert a == again != b
    _, told = await call(ollama, "/api/embeddings", {"model": "nomic-embed-text", "prompt": "a"})
    assert told["embedding"] == a


async def test_loading_is_seen_and_ends(ollama: FakeOllama) -> None:
    assert await loaded(ollama) == []
    _, told = await call(ollama, "/api/generate", {"model": "llama3.2:3b", "keep_alive": "1h"})
    assert (told["done"], told["done_reason"]) == (True, "load")
    (entry,) = await loaded(ollama)
    assert set(entry) == {
        "name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length"
    }  # fmt: skip
    assert (entry["size_vram"], entry["context_length"]) == (0, 4096)
    assert entry["size"] == LLAMA.size + 2 * 2 * 28 * 8 * 128 * 4096
    await call(ollama, "/api/generate", generation(keep_alive="20ms", stream=False))
    await until(lambda: not ollama.scheduler.runners)
    await call(ollama, "/api/generate", generation(keep_alive=-1, stream=False))
    assert (await loaded(ollama))[0]["expires_at"] > "2300"
    _, told = await call(ollama, "/api/generate", {"model": "llama3.2:3b", "keep_alive": 0})
    assert told["done_reason"] == "unload"
    assert await loaded(ollama) == []


async def test_settings_come_from_ollamas_variables(tmp_path: Path) -> None:
    LLAMA.install(tmp_path)
    variables = {"OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_NUM_PARALLEL": "2", "OLLAMA_KEEP_ALIVE": "-1"}
    async with fake_ollama(tmp_path, **variables, FAKE_OLLAMA_VRAM=str(1 << 40)) as ollama:
        await call(ollama, "/api/generate", generation(stream=False))
        (entry,) = await loaded(ollama)
        assert entry["context_length"] == 8192
        assert entry["size_vram"] == entry["size"] == LLAMA.size + 2 * 2 * 28 * 8 * 128 * 8192 * 2
        assert entry["expires_at"] > "2300"


async def test_another_context_makes_it_load_again(ollama: FakeOllama) -> None:
    for context in (2048, 2048, 4096):
        await call(ollama, "/api/generate", generation(stream=False, options={"num_ctx": context}))
    assert ollama.scheduler.loads == 2


async def test_the_least_used_model_makes_room(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    for seed, name in enumerate(names):
        make_model(name, seed=seed).install(tmp_path)
    async with fake_ollama(tmp_path, OLLAMA_MAX_LOADED_MODELS="2") as ollama:
        for name in names:
            await call(ollama, "/api/generate", generation(model=name, stream=False))
        assert {entry["name"] for entry in await loaded(ollama)} == {"b:latest", "c:latest"}


async def test_a_full_queue_answers_503_and_a_loaded_model_is_not_queued(tmp_path: Path) -> None:
    models = [make_model(name, seed=seed) for seed, name in enumerate("abcd")]
    for model in models:
        model.install(tmp_path)
    async with fake_ollama(tmp_path, OLLAMA_MAX_QUEUE="1") as ollama:
        await call(ollama, "/api/generate", generation(model="d", stream=False))
        ollama.faults.load_seconds = 3600
        waiting = [asyncio.create_task(call(ollama, "/api/generate", generation(model=name))) for name in "ab"]
        await until(lambda: ollama.in_flight == 2)
        assert await call(ollama, "/api/generate", generation(model="c")) == (503, {"error": BUSY})
        assert (await call(ollama, "/api/generate", generation(model="d", stream=False)))[0] == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: len(ollama.aborts) == 2)


async def test_as_many_answers_at_once_as_there_are_slots(tmp_path: Path) -> None:
    LLAMA.install(tmp_path)
    async with fake_ollama(tmp_path, OLLAMA_NUM_PARALLEL="2") as ollama:
        ollama.faults.hang_after_tokens = 1
        body = json.dumps(generation()).encode()
        async with AsyncExitStack() as clients:
            url = ollama.url + "/api/generate"
            first, second = [await clients.enter_async_context(asked("POST", url, None, body)) for _ in range(2)]
            third = asyncio.create_task(first_line(ollama, body))
            assert await first.read()
            assert await second.read()
            await until(lambda: ollama.scheduler.runners[0].users == 3)
            assert ollama.scheduler.runners[0].slots.locked()
            assert not third.done()
        assert await third  # the two have gone


async def first_line(ollama: FakeOllama, body: bytes) -> bytes:
    async with asked("POST", ollama.url + "/api/generate", None, body) as answer:
        return await answer.read()


async def test_a_client_that_goes_away_is_noticed(ollama: FakeOllama) -> None:
    ollama.faults.hang_after_tokens = 3
    await first_line(ollama, json.dumps(generation()).encode())
    await until(lambda: ollama.aborts)
    (seen,) = ollama.aborts
    assert (seen.path, seen.model, seen.status, seen.aborted) == ("/api/generate", "llama3.2:3b", 200, True)
    assert not ollama.scheduler.runners[0].users


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:11434", 200), ("10.1.2.3", 200), ("tower.local", 200), ("a.internal:1", 200),
     ("evil.example", 403), ("198.51.100.7", 403), ("localhost.evil.example", 403)],
)  # fmt: skip
async def test_a_foreign_host_is_refused(ollama: FakeOllama, host: str, status: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", ollama.port)
    writer.write(f"GET /api/version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert int(answer.split()[1]) == status


async def test_a_foreign_page_is_refused(ollama: FakeOllama) -> None:
    assert (await call(ollama, "/api/tags", headers={"Origin": "http://evil.example"}))[0] == 403
    assert (await call(ollama, "/api/tags", headers={"Origin": "http://localhost:3000"}))[0] == 200


async def test_a_chunked_body_is_read(ollama: FakeOllama) -> None:
    body = json.dumps(generation(stream=False)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", ollama.port)
    head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    writer.write(head + b"".join(b"%x\r\n%b\r\n" % (len(body[i : i + 9]), body[i : i + 9]) for i in range(0, 99, 9)))
    writer.write(b"0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200")


async def test_copies_and_deletions_keep_shared_blobs(ollama: FakeOllama) -> None:
    assert (await call(ollama, "/api/copy", {"source": "llama3.2:3b", "destination": "host:1/me/mine"}))[0] == 200
    assert (await call(ollama, "/api/copy", {"source": "x", "destination": "y"}))[0] == 404
    assert (ollama.settings.models / "manifests/host:1/me/mine/latest").is_file()
    assert (await call(ollama, "/api/delete", {"model": "llama3.2:3b"}, "DELETE"))[0] == 200
    assert ollama.store.blob(LLAMA.weights).exists()
    assert (await call(ollama, "/api/delete", {"model": "host:1/me/mine"}, "DELETE"))[0] == 200
    assert not ollama.store.blob(LLAMA.weights).exists()
    assert not (ollama.settings.models / "manifests/host:1").exists()
    status, told = await call(ollama, "/api/delete", {"model": "mine"}, "DELETE")
    assert (status, told["error"]) == (404, "model 'mine:latest' not found")


async def test_blobs_are_taken_when_they_are_what_they_are_called(ollama: FakeOllama) -> None:
    digest = LLAMA.weights
    assert (await call(ollama, f"/api/blobs/{digest}", method="HEAD"))[0] == 200
    assert (await call(ollama, f"/api/blobs/sha256:{'0' * 64}", method="HEAD"))[0] == 404
    status, told = await call(ollama, f"/api/blobs/sha256:{'0' * 64}", {"not": "that"})
    assert (status, told["error"][:15]) == (400, "digest mismatch")


def age(path: Path) -> None:
    os.utime(path, (time.time() - 3601,) * 2)


def abandoned(models: Path) -> list[Path]:
    """Put blobs there that no manifest names."""
    made = [models / "blobs" / name for name in (f"sha256-{'1' * 64}", f"sha256-{'2' * 64}-partial-3")]
    for path in made:
        path.write_bytes(b"x")
    return made


async def test_old_blobs_that_no_manifest_names_go_at_the_start(tmp_path: Path) -> None:
    LLAMA.install(tmp_path)
    for path in abandoned(tmp_path):
        age(path)
    young = tmp_path / f"blobs/sha256-{'3' * 64}"
    young.write_bytes(b"x")
    async with fake_ollama(tmp_path, OLLAMA_NOPRUNE="1") as ollama:
        assert ollama.pruned == []
    async with fake_ollama(tmp_path) as ollama:
        assert len(ollama.pruned) == 2
        assert young.exists()
        assert ollama.store.blob(LLAMA.weights).exists()


async def test_nothing_goes_while_a_manifest_is_damaged(tmp_path: Path) -> None:
    LLAMA.install(tmp_path)
    (tmp_path / "manifests/registry.ollama.ai/library/llama3.2/3b").write_text("{")
    for path in abandoned(tmp_path):
        age(path)
    async with fake_ollama(tmp_path) as ollama:
        assert ollama.pruned == []


async def test_it_fails_as_it_is_told(ollama: FakeOllama) -> None:
    ollama.faults.set({"refuse": {"/api/*": 500}, "retry_after": 7})
    async with asked("GET", ollama.url + "/api/tags") as answer:
        assert (answer.status, answer.headers["retry-after"]) == (500, "7")
    assert (await call(ollama, "/fake/faults", {"refuse": {}, "crash_after_tokens": 2}))[0] == 200
    with pytest.raises(ConnectionError):
        await streamed(ollama, "/api/generate", generation())
    ollama.faults.set({"crash_after_tokens": -1, "error_after_tokens": 2})
    assert "error" in (await streamed(ollama, "/api/generate", generation()))[-1]
    ollama.faults.set({"error_after_tokens": -1, "load_error": "llama runner process has terminated"})
    await ollama.scheduler.unload(ollama.store.models()[0])
    await ollama.scheduler.unload(ollama.store.models()[1])
    assert (await call(ollama, "/api/generate", generation()))[0] == 500
    ollama.faults.clear()
    ollama.faults.set(
        {"digests": {"llama3.2:3b": "f" * 64}, "ghosts": ["ghost:1b"], "hidden": ["nomic-embed-text:latest"]}
    )
    entries = {entry["name"]: entry["digest"] for entry in (await call(ollama, "/api/tags"))[1]["models"]}
    assert entries.keys() == {"llama3.2:3b", "ghost:1b"}
    assert entries["llama3.2:3b"] == "f" * 64
    ollama.faults.set({"garbage": ["/api/tags"]})
    with pytest.raises(ValueError, match="Expecting"):
        await call(ollama, "/api/tags")
    assert (await call(ollama, "/fake/faults", {"wrong": 1}))[0] == 400


async def test_a_file_can_tell_it_to_fail(tmp_path: Path) -> None:
    control = tmp_path / "control.json"
    async with fake_ollama(tmp_path / "models", FAKE_OLLAMA_CONTROL=str(control)) as ollama:
        assert (await call(ollama, "/api/tags"))[0] == 200
        control.write_text('{"refuse": {"/api/tags": 503}}')
        assert (await call(ollama, "/api/tags"))[0] == 503
        control.unlink()
        assert (await call(ollama, "/api/tags"))[0] == 200


def test_a_blob_can_be_damaged_in_place(tmp_path: Path) -> None:
    LLAMA.install(tmp_path)
    path = tmp_path / "blobs" / LLAMA.weights.replace(":", "-")
    before = path.stat()
    damage_blob(tmp_path, LLAMA.weights)
    assert path.read_bytes() != LLAMA.blobs[LLAMA.weights]
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_made_models_are_the_same_for_the_same_seed() -> None:
    def digests(model: MadeModel) -> set[str]:
        return set(model.blobs)

    assert make_model().manifest == make_model().manifest
    assert digests(make_model()) != digests(make_model(seed=2))
