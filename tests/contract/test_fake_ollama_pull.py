"""The double's puller against the double of the registry, step by step as the real one's rules are."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fakes.http import asked
from fakes.ollama import FakeOllama, fake_ollama, make_program
from fakes.registry import FakeRegistry, make_model
from support.waiting import until

PART = 100_000
MODEL = make_model(size_bytes=20 * PART)
FAST = {"FAKE_OLLAMA_PART_BYTES": str(PART), "FAKE_OLLAMA_RETRY_SECONDS": "0.01"}


@asynccontextmanager
async def both(models: Path, **variables: str) -> AsyncIterator[tuple[FakeRegistry, FakeOllama]]:
    async with AsyncExitStack() as parts:
        registry = await parts.enter_async_context(FakeRegistry([MODEL]))
        settings = {**FAST, "FAKE_OLLAMA_REGISTRY": registry.url, **variables}
        yield registry, await parts.enter_async_context(fake_ollama(models, **settings))


async def pull(ollama: FakeOllama, name: str = "llama3.2:3b", **more: Any) -> list[dict[str, Any]]:
    """Pull and return every line of the answer."""
    body = json.dumps({"model": name, **more}).encode()
    async with asked("POST", f"{ollama.url}/api/pull", None, body) as answer:
        return [json.loads(line) for line in (await answer.body()).splitlines()]


def installed(ollama: FakeOllama) -> bool:
    """Tell whether the model is there, byte for byte."""
    model = ollama.store.find("llama3.2:3b")
    return model is not None and all(ollama.store.blob(d).read_bytes() == data for d, data in MODEL.blobs.items())


def weights(registry: FakeRegistry) -> list[str]:
    """The ranges of the weights that were asked for."""
    return [wanted for _, path, wanted in registry.requests if path == f"/data/{MODEL.weights}" and wanted]


async def test_a_pull_tells_each_step_and_brings_every_byte(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        said = await pull(ollama)
        assert installed(ollama)
        steps = list(dict.fromkeys(line["status"] for line in said))
        digests = [f"pulling {digest[7:19]}" for digest in MODEL.blobs]
        assert steps == ["pulling manifest", *digests, "verifying sha256 digest", "writing manifest", "success"]
        last = [line for line in said if line.get("digest") == MODEL.weights][-1]
        assert last["total"] == last["completed"] == 20 * PART
        assert len(weights(registry)) == 16
        assert registry.busiest <= 16
        assert registry.requests[:3] == [
            ("GET", "/v2/library/llama3.2/manifests/3b", ""),
            ("HEAD", f"/v2/library/llama3.2/blobs/{MODEL.weights}", ""),
            ("GET", f"/v2/library/llama3.2/blobs/{MODEL.weights}", ""),
        ]
        assert list(tmp_path.glob("blobs/*partial*")) == []


async def test_what_is_there_is_not_fetched_again_nor_verified(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        await pull(ollama)
        ollama.store.blob(MODEL.weights).write_bytes(b"damaged since")
        registry.requests.clear()
        assert (await pull(ollama))[-1] == {"status": "success"}
        assert [path for _, path, _ in registry.requests] == ["/v2/library/llama3.2/manifests/3b"]


async def test_without_a_stream_there_is_one_answer(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        assert await pull(ollama, stream=False) == [{"status": "success"}]
        registry.trouble.status = 500
        (told,) = await pull(ollama, stream=False)
        assert told["error"].startswith("pull model manifest: 500: ")


async def test_a_pull_that_is_broken_off_goes_on_where_it_was(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        registry.trouble.stalls = 16
        running = asyncio.create_task(pull(ollama))
        await until(lambda: len(weights(registry)) == 16)
        await until(lambda: _halves(ollama))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await until(lambda: ollama.aborts and not ollama.in_flight)
    saved = [json.loads(path.read_text()) for path in tmp_path.glob("blobs/*-partial-*")]
    assert len(saved) == 16
    assert sum(part["Completed"] for part in saved) >= 10 * PART
    async with both(tmp_path) as (registry, ollama):
        assert (await pull(ollama))[-1] == {"status": "success"}
        assert installed(ollama)
        assert sum(map(_length, weights(registry))) <= 10 * PART
        assert not [path for method, path, _ in registry.requests if method == "HEAD" and MODEL.weights in path]


def _halves(ollama: FakeOllama) -> bool:
    """Tell whether half of the weights have come."""
    downloads = list(ollama.puller.downloads.values())
    return bool(downloads) and downloads[0].progress.get("completed", 0) >= 10 * PART


def _length(wanted: str) -> int:
    start, stop = wanted.removeprefix("bytes=").split("-")
    return int(stop) + 1 - int(start)


async def test_a_connection_that_is_cut_is_tried_again(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        registry.trouble.cuts = 20
        assert (await pull(ollama))[-1] == {"status": "success"}
        assert installed(ollama)
        assert len(weights(registry)) > 16


async def test_a_connection_that_stands_still_is_tried_again(tmp_path: Path) -> None:
    async with both(tmp_path, FAKE_OLLAMA_STALL_SECONDS="0.2") as (registry, ollama):
        registry.trouble.stalls = 3
        assert (await pull(ollama))[-1] == {"status": "success"}
        assert installed(ollama)


async def test_it_gives_up_after_six_attempts(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        registry.trouble.cuts = 1_000
        assert "max retries exceeded" in (await pull(ollama))[-1]["error"]


async def test_bytes_that_are_not_what_they_are_called_are_thrown_away(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        registry.trouble.corrupt = {MODEL.weights}
        assert (await pull(ollama))[-1]["error"].startswith("digest mismatch, file must be downloaded again: want")
        assert not ollama.store.blob(MODEL.weights).exists()
        assert ollama.store.find("llama3.2:3b") is None
        registry.trouble.corrupt = set()
        ollama.faults.damage = True
        assert "digest mismatch" in (await pull(ollama))[-1]["error"]
        ollama.faults.clear()
        await pull(ollama)
        assert installed(ollama)


async def test_a_full_disk_ends_it_at_once(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        ollama.faults.disk_full = True
        assert (await pull(ollama))[-1]["error"] == "no space left on device"
        assert max(weights(registry).count(wanted) for wanted in weights(registry)) == 1
        ollama.faults.disk_full = False
        assert (await pull(ollama))[-1] == {"status": "success"}


async def test_a_disk_that_is_really_full_reads_the_same(tmp_path: Path) -> None:
    """The program, on a file system of 1 MB."""
    program, models = make_program(tmp_path / "ollama"), tmp_path / "models"
    models.mkdir()
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    async with FakeRegistry([MODEL]) as registry:
        process = await asyncio.create_subprocess_exec(
            *("unshare", "-Urm", "sh", "-c", mount, models, program, "serve"), stderr=asyncio.subprocess.PIPE,
            env={**FAST, "OLLAMA_HOST": "127.0.0.1:0", "OLLAMA_MODELS": str(models), "PATH": "/usr/bin:/bin:/usr/sbin",
                 "FAKE_OLLAMA_REGISTRY": registry.url},
        )  # fmt: skip
        try:
            assert process.stderr is not None
            async with asyncio.timeout(60):
                url = (await process.stderr.readline()).split()[2].decode()
            body = json.dumps({"model": "llama3.2:3b", "stream": False}).encode()
            async with asyncio.timeout(60), asked("POST", f"{url}/api/pull", None, body) as answer:
                assert json.loads(await answer.body())["error"] == "no space left on device"
        finally:
            process.terminate()
            async with asyncio.timeout(60):
                await process.communicate()


async def test_a_registry_that_does_not_name_the_place_of_a_blob_is_no_use(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        registry.trouble.no_location = True
        assert (await pull(ollama))[-1] == {"error": "http: no Location header in response"}


async def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, ollama):
        assert await pull(ollama, "missing") == [
            {"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}
        ]  # fmt: skip


async def test_plain_http_is_taken_only_when_asked_for(tmp_path: Path) -> None:
    """How a node fetches from the server's mirror; the name that it gets has the mirror's address in it."""
    async with both(tmp_path, FAKE_OLLAMA_REGISTRY="") as (registry, ollama):
        name = f"http://{registry.authority}/library/llama3.2:3b"
        assert await pull(ollama, name) == [{"error": "insecure protocol http"}]
        assert (await pull(ollama, name, insecure=True))[-1] == {"status": "success"}
        assert [str(model.name) for model in ollama.store.models()] == [f"{registry.authority}/library/llama3.2:3b"]
        assert (tmp_path / f"manifests/{registry.authority}/library/llama3.2/3b").is_file()


async def test_two_pulls_of_one_model_share_the_download(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        registry.trouble.hold = asyncio.Event()
        first, second = (asyncio.create_task(pull(ollama)) for _ in range(2))
        await until(lambda: any(each.waiting == 2 for each in ollama.puller.downloads.values()))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await until(lambda: ollama.aborts)
        registry.trouble.hold.set()
        assert (await second)[-1] == {"status": "success"}
        assert len(weights(registry)) == 16


async def test_a_newer_version_replaces_the_older_and_its_blobs(tmp_path: Path) -> None:
    async with both(tmp_path) as (registry, ollama):
        await pull(ollama)
        newer = make_model(size_bytes=20 * PART, seed=2)
        registry.add(newer)
        assert "removing unused layers" in [line["status"] for line in await pull(ollama)]
        assert not ollama.store.blob(MODEL.weights).exists()
        found = ollama.store.find("llama3.2:3b")
        assert found is not None
        assert found.digest == newer.digest


@pytest.mark.parametrize("name", ["", "a/b/c/d/e", "x:y:z", "-x", "a b"])
async def test_names_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    async with fake_ollama(tmp_path) as ollama:
        (told,) = await pull(ollama, name)
        assert told["error"] in ("invalid model name", "model is required")


def test_there_is_a_registry_program() -> None:
    ended = subprocess.run(
        ["/usr/bin/python3", "-m", "fakes.registry"], cwd=Path(__file__).parents[1], capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith("usage: ")
