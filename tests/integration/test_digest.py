"""examples/digest.py on a real Dask cluster, asking the double of Ollama."""

import gzip
import importlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest

from fakes.http import HttpServer, Reply, Request, asked
from fakes.ollama import FakeOllama, fake_ollama
from fakes.registry import make_model
from support.examples import DASK_LOG, dask, run
from support.gates import server_tls
from support.gateway import Gateway, gate_certificate, routes, running_gateway
from support.local_cluster import ended, local, prepared_state
from support.tree import ROOT
from support.waiting import until

SCRIPT = ROOT / "examples/digest.py"
KEY = "cak1.k3v7q2xa.abcdefghijklmnopqrstuvwxyz"
WORDS = {"summary": "It is about rivers.", "keywords": ["Rivers", "water"]}


@pytest.fixture
def digest(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, for what can be decided without a cluster."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("digest")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight documents, and what is none."""
    root = tmp_path / "papers"
    for number in range(5):
        path = root / f"d{number % 2}/paper{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Paper number {number} is about rivers.\n")
    (root / "copyright").write_text("Nobody's.")
    (root / "README").write_bytes(b"caf\xe9")
    (root / "changelog.gz").write_bytes(gzip.compress(b"Now with rivers."))
    (root / "again.txt").write_text("Nobody's.")
    (root / "paper.pdf").write_text("no text")
    (root / "binary.txt").write_bytes(b"a\0b")
    (root / "empty.txt").touch()
    (root / "broken.txt.gz").write_bytes(b"no gzip")
    os.link(root / "README", root / "README.linked")
    (root / "link.txt").symlink_to("README")
    os.mkfifo(root / "pipe.txt")
    return root


@pytest.fixture
async def ollama(tmp_path: Path) -> AsyncIterator[FakeOllama]:
    make_model("big:70b", 9_000).install(tmp_path / "models")
    make_model("small:1b", 5_000).install(tmp_path / "models")
    make_model("embedder", 2_000, embeds=True).install(tmp_path / "models")
    async with fake_ollama(tmp_path / "models", OLLAMA_NUM_PARALLEL="64") as running:
        yield running


@asynccontextmanager
async def through_the_gateway(ollama: FakeOllama, directory: Path) -> AsyncIterator[Gateway]:
    """The real gateway, with a node whose gate leads to Ollama."""

    async def passed_on(request: Request, reply: Reply) -> None:
        async with asked(request.method, ollama.url + request.path, None, request.body) as answer:
            await reply.whole(answer.status, await answer.body(), "application/json")

    with running_gateway(directory) as gateway:
        tls = server_tls(gateway.authority, gate_certificate(gateway.authority, "tower"))
        async with HttpServer(passed_on, tls=tls) as gate:
            models = {"small:1b": {"tower": {"loaded": True, "fit": 1}}}
            gateway.write_routes(routes({"tower": gate.port}, models))
            gateway.write_keys({KEY: {"id": "k3v7q2xa", "name": "ann"}})
            await until(lambda: gateway.status()["keys"]["generation"] == gateway.status()["routes"]["generation"] == 1)
            yield gateway


def environment(variables: dict[str, str], ollama: FakeOllama, **more: str) -> dict[str, str]:
    return {**variables, "OLLAMA_HOST": ollama.url, **more}


def chats(ollama: FakeOllama) -> int:
    return sum(seen.path == "/api/chat" for seen in ollama.requests)


async def test_every_document_gets_a_summary_and_keywords(folder: Path, ollama: FakeOllama, tmp_path: Path) -> None:
    ollama.faults.reply = json.dumps(WORDS)
    async with dask(tmp_path, "127.0.0.1", "127.0.0.2") as variables:
        code, out, err = await run(SCRIPT, environment(variables, ollama), folder, cwd=tmp_path)
    assert code == 0, err
    result = json.loads((tmp_path / "digest.json").read_text())
    names = ["README", "changelog.gz", "copyright", *(f"paper{number}.txt" for number in range(5))]
    # Of two equal texts the first name counts: again.txt comes before copyright.
    assert sorted(Path(each["path"]).name for each in result["documents"]) == sorted(
        {*names, "again.txt"} - {"copyright"}
    )
    assert {each["summary"] for each in result["documents"]} == {"It is about rivers."}
    assert result["keywords"] == {"rivers": 8, "water": 8}
    assert (result["model"], result["failed"]) == ("small:1b", [])
    assert chats(ollama) == 8
    assert result["tokens"] > 0
    assert all(len(line) <= 80 for line in out.splitlines()), out
    assert out.splitlines()[-1] == "  python3 -m json.tool digest.json | less"
    assert "small:1b at http://127.0.0.1:" in err


async def test_no_more_are_asked_at_once_than_was_said(folder: Path, ollama: FakeOllama, tmp_path: Path) -> None:
    ollama.faults.prompt_seconds = 0.2
    async with dask(tmp_path, "127.0.0.1", "127.0.0.2") as variables:
        words = (folder, "--at-once", "2", "--json", "--out", "-")
        code, out, err = await run(SCRIPT, environment(variables, ollama), *words, cwd=tmp_path)
    assert code == 0, err
    assert err == ""
    assert len(json.loads(out)["documents"]) == 8
    assert ollama.most_in_flight == 2


@pytest.mark.parametrize("status", [503, 429])
async def test_a_gateway_that_is_busy_is_asked_again_when_it_says(
    folder: Path, ollama: FakeOllama, tmp_path: Path, status: int
) -> None:
    ollama.faults.set({"refuse": {"/api/chat": status}, "retry_after": 2, "refusals": 1})
    async with dask(tmp_path, "127.0.0.1") as variables:
        words = (folder, "--limit", "1")
        code, _, err = await run(SCRIPT, environment(variables, ollama), *words, cwd=tmp_path)
    assert code == 0, err
    (document,) = json.loads((tmp_path / "digest.json").read_text())["documents"]
    assert document["attempts"] == 2
    assert document["seconds"] >= 2


async def test_a_document_that_fails_is_told_and_the_others_go_on(
    folder: Path, ollama: FakeOllama, tmp_path: Path
) -> None:
    ollama.faults.set({"refuse": {"/api/chat": 500}, "refusals": 1})
    async with dask(tmp_path, "127.0.0.1") as variables:
        code, out, err = await run(SCRIPT, environment(variables, ollama), folder, cwd=tmp_path)
    assert code == 0, err
    result = json.loads((tmp_path / "digest.json").read_text())
    assert len(result["documents"]) == 7
    (failed,) = result["failed"]
    assert (failed["status"], failed["error"]) == (500, "refused with 500, as told")
    assert "1 failed" in err
    assert "refused with 500" in out


async def test_the_key_goes_to_the_gateway_and_nowhere_else(folder: Path, ollama: FakeOllama, tmp_path: Path) -> None:
    """Not into the result, not into what Dask logs, neither when all is well nor when tasks fail."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    async with dask(tmp_path, "127.0.0.1") as variables:
        asked = environment(variables, ollama)
        code, out, err = await run(SCRIPT, asked, folder, "--key-file", tmp_path / "key", cwd=tmp_path)
        assert code == 0, err
        ollama.faults.set({"garbage": ["/api/chat"], "nonsense": "{}"})
        words = (folder, "--limit", "1", "--patience", "0")
        assert (await run(SCRIPT, {**asked, "CLUSTERAI_KEY": KEY}, *words, cwd=tmp_path))[0] == 1
        ollama.faults.set({"garbage": [], "refuse": {"/api/chat": 401}})
        code, _, err = await run(SCRIPT, {**asked, "CLUSTERAI_KEY": KEY}, *words, cwd=tmp_path)
        assert code == 1
        assert "refused with 401" in err
    assert {seen.headers.get("authorization") for seen in ollama.requests} == {f"Bearer {KEY}"}
    secret, log = KEY.rpartition(".")[2], (tmp_path / DASK_LOG).read_text()
    assert "Compute Failed" in log
    assert secret not in log + (tmp_path / "digest.json").read_text() + out + err


async def test_what_goes_wrong_is_a_sentence(folder: Path, ollama: FakeOllama, tmp_path: Path) -> None:
    async def failure(*words: str | Path, **more: str) -> str:
        code, _, err = await run(SCRIPT, environment(variables, ollama, **more), *words, cwd=tmp_path)
        assert code == 1, err
        assert "Traceback" not in err
        return err

    async with dask(tmp_path, "127.0.0.1") as variables:
        assert "no documents below" in await failure(tmp_path / "absent")
        said = await failure(folder, CLUSTERAI_GATEWAY="127.0.0.1:1")
        assert "cannot reach http://127.0.0.1:1: [Errno 111] Connection refused\n  name the gateway: --gateway" in said
        said = await failure(folder, "--model", "huge")
        assert "there is no model huge\n  there are: big:70b, small:1b" in said
        ollama.faults.refuse = {"/api/tags": 401}
        assert "clusteractl key create digest" in await failure(folder)
        ollama.faults.set({"refuse": {}, "hidden": ["big:70b", "small:1b"]})
        assert "there is no model that could read" in await failure(folder)
        ollama.faults.set({"hidden": [], "refuse": {"/api/chat": 500}})
        for number in range(12):
            (folder / f"more{number}.md").write_text(f"Number {number}")
        said = await failure(folder)
        assert "10 documents in a row failed, the last with: refused with 500" in said
        assert "cannot read the key in absent" in await failure(folder, "--key-file", "absent")


async def test_through_the_real_gateway_with_its_certificate_and_a_key(
    folder: Path, ollama: FakeOllama, tmp_path: Path
) -> None:
    async with dask(tmp_path, "127.0.0.1") as variables, through_the_gateway(ollama, tmp_path) as gateway:
        (tmp_path / "clusterai").mkdir()
        words = (folder, "--gateway", f"https://127.0.0.1:{gateway.tls_port}")
        code, _, err = await run(SCRIPT, {**variables, "CLUSTERAI_KEY": KEY}, *words, cwd=tmp_path)
        assert code == 1
        assert "is not to be trusted: " in err
        assert "clusteractl ca > ca.pem" in err
        authority = gateway.state / "cluster-ca.pem"
        code, _, err = await run(SCRIPT, variables, *words, "--ca-file", authority, cwd=tmp_path)
        assert code == 1
        assert "clusteractl key create" in err
        shutil.copy(authority, tmp_path / "clusterai/ca.pem")  # where `clusteractl login` keeps it
        known = {**variables, "XDG_CONFIG_HOME": str(tmp_path), "CLUSTERAI_KEY": KEY}
        code, out, err = await run(SCRIPT, known, *words, cwd=tmp_path)
        assert code == 0, err
        assert "ANSWERED BY" in out
        gateway.write_routes(routes({}, {"small:1b": {}}, generation=2))
        await until(lambda: gateway.status()["routes"]["generation"] == 2)
        code, _, err = await run(SCRIPT, known, *words, "--limit", "1", "--patience", "0", cwd=tmp_path)
        assert code == 1
        assert "1 failed" in err
    result = json.loads((tmp_path / "digest.json").read_text())
    assert [failed["status"] for failed in result["failed"]] == [503]
    assert {seen.model for seen in ollama.requests} == {"small:1b"}
    assert chats(ollama) == 8


async def test_it_runs_in_a_local_cluster(folder: Path, ollama: FakeOllama, tmp_path: Path) -> None:
    state = await prepared_state(tmp_path)
    words = (str(folder), "--gateway", ollama.url, "--json", "--out", "-")
    async with local(state, "--", "python", str(SCRIPT), *words) as process:
        code, out, err = await ended(process)
    assert code == 0, err
    assert len(json.loads(out)["documents"]) == 8


@pytest.mark.parametrize(
    ("said", "url"),
    [("127.0.0.1:11434", "http://127.0.0.1:11434"), ("0.0.0.0", "http://127.0.0.1:11434"), ("tower", "http://tower:11434"),
     ("https://server:11434/v1/", "https://server:11434"), ("https://server", "https://server:443"),
     ("http://[::1]:5", "http://[::1]:5"), ("http://server", "http://server:80")],
)  # fmt: skip
def test_a_gateway_is_written_as_ollama_s_clients_write_it(digest: ModuleType, said: str, url: str) -> None:
    assert digest.gateway_url(said) == url


def test_the_gateway_is_ollama_s_usual_place_when_nobody_says(digest: ModuleType) -> None:
    assert digest.gateway_url(digest.DEFAULT_GATEWAY) == "http://127.0.0.1:11434"


@pytest.mark.parametrize("said", ["ftp://x", "http://", "http://x:port"])
def test_what_is_no_gateway_is_refused(digest: ModuleType, said: str) -> None:
    with pytest.raises(SystemExit, match="is no address of a gateway"):
        digest.gateway_url(said)


def test_pauses_are_as_asked_or_grow_and_end_with_the_patience(digest: ModuleType) -> None:
    assert digest.pause_before(1, 7.0, 10) == 7
    assert digest.pause_before(1, 7.0, 6) is None
    pauses = [digest.pause_before(attempt, None, 1e9) for attempt in range(1, 12)]
    assert all(0.5 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses[:6]))
    assert max(pauses) <= 60
    assert digest.seconds_until("12", 0) == 12
    assert digest.seconds_until("Thu, 01 Jan 1970 00:01:00 GMT", 20) == 40
    assert digest.seconds_until("soon", 0) is None
    assert digest.seconds_until(None, 0) is None


def test_a_loaded_model_comes_before_the_smallest(digest: ModuleType) -> None:
    tags = [{"name": "big", "size": 9}, {"name": "small", "size": 1}]
    assert digest.choose_model("", "", tags, []) == "small"
    assert digest.choose_model("", "", tags, [{"name": "big"}]) == "big"


def test_workers_elsewhere_need_a_gateway_that_they_reach(digest: ModuleType) -> None:
    here = os.uname().nodename
    digest.require_reachable(digest.Gateway("http://127.0.0.1:1"), {here})
    digest.require_reachable(digest.Gateway("https://server:1"), {here, "tower"})
    with pytest.raises(SystemExit, match="there are workers on tower"):
        digest.require_reachable(digest.Gateway("http://127.0.0.1:1"), {here, "tower"})


def test_a_sample_is_taken_from_the_whole(digest: ModuleType) -> None:
    paths = [Path(str(number)) for number in range(100)]
    assert digest.chosen(paths, 0) == paths
    assert [path.name for path in digest.chosen(paths, 4)] == ["0", "25", "50", "75"]


def test_a_key_does_not_show_when_a_gateway_is_printed(digest: ModuleType) -> None:
    assert KEY not in repr(digest.Gateway("http://x", key=KEY))
    with pytest.raises(SystemExit, match="characters that no key has"):
        digest.read_key(None, {"CLUSTERAI_KEY": "a\nb"})


def test_an_answer_that_is_not_in_the_format_is_a_summary(digest: ModuleType) -> None:
    found = digest.read_answer({"message": {"content": " Rivers. "}}, {"x-clusterai-node": "tower"})
    assert (found["summary"], found["keywords"], found["node"]) == ("Rivers.", [], "tower")
