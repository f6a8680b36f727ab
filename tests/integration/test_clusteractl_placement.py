"""`clusteractl` and the models of a real daemon with simulated nodes: they mean the same."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusterai.v1.types_pb2 import PULL_STATE_FAILED, PULL_STATE_PULLING
from support.ctl import Ctl
from support.killable import KillableDaemon, killable_daemon
from support.model_node import model_node
from support.ollama_status import GB, model, pull
from support.terminal import PATIENCE

NAME = "llama3.2:3b"
PATIENT = "[session]\nheartbeat_seconds = 300\noffline_seconds = 3600\n"  # the nodes here send no heartbeats


@pytest.fixture
async def daemon() -> AsyncIterator[KillableDaemon]:
    with tempfile.TemporaryDirectory() as directory:
        async with killable_daemon(Path(directory), settings=PATIENT) as running:
            yield running


@pytest.fixture
def admin(daemon: KillableDaemon, tmp_path: Path) -> Ctl:
    return Ctl(tmp_path, daemon.socket)


async def shown(admin: Ctl, text: str) -> str:
    """The list of models, once it has the text."""
    async with asyncio.timeout(PATIENCE):
        while text not in (found := (await admin("model", "list")).out):
            await asyncio.sleep(0.1)
    return found


async def test_without_nodes_everything_answers_and_says_what_is_missing(admin: Ctl) -> None:
    for command in ("model list", "model catalog", "model recommend"):
        seen = await admin(*command.split())
        assert (command, seen.code, seen.err) == (command, 0, "")
        assert [line for line in seen.out.splitlines() if len(line) > 80] == []
    assert (await admin("model", "pull", NAME, "--dry-run")).code == 1
    assert (await admin("model", "pull", NAME)).code == 1
    assert (await admin("why", NAME)).code == 3
    assert (await admin("model", "rm", NAME)).code == 3
    assert (await admin("model", "show", NAME)).code == 3


async def test_a_pull_is_shown_from_the_choice_to_its_end(daemon: KillableDaemon, admin: Ctl) -> None:
    async with model_node(daemon, "tower") as tower, model_node(daemon, "pi", gpu=0):
        async with admin.running("model", "pull", "Llama3.2:3B") as process:
            await tower.hears(lambda _: tower.wanted(NAME) is not None)
            tower.pulls = [pull(state=PULL_STATE_PULLING, completed_bytes=GB, total_bytes=2 * GB)]
            await tower.tell()
            assert process.stderr is not None
            async with asyncio.timeout(PATIENCE):
                said = [await process.stderr.readline()]
                while said[-1] and b"pulling, 50 %" not in said[-1]:
                    said.append(await process.stderr.readline())
            assert said[-1] == b"tower: pulling, 50 % of 2.0 GB\n"
            assert "tower pulling 50 %" in (await admin("model", "list")).out
            tower.pulls = []
            await tower.tell(model())
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate()
        assert (process.returncode, err.decode().splitlines()[-1]) == (0, "tower: ready")
        lines = out.decode().splitlines()
        assert lines[0] == f"{NAME} goes to"
        assert lines[1].startswith("  tower  fits in the 24 GB of its GPU, needs ")
        assert lines[2:4] == ["and not to", lines[3]]
        assert lines[4] == f"{NAME} is ready on tower. Use it:"
        why = await admin("why", NAME)
        assert (why.code, why.out.splitlines()[0]) == (0, f"A request for {NAME} goes to tower now.")


async def test_a_node_that_fails_is_named_and_a_copy_that_differs_has_its_fix(
    daemon: KillableDaemon, admin: Ctl
) -> None:
    async with model_node(daemon, "tower") as tower, model_node(daemon, "pi", gpu=0) as pi:
        async with admin.running("model", "pull", NAME, "--node", "tower", "--node", "pi") as process:
            await pi.hears(lambda _: pi.wanted(NAME) is not None)
            await tower.tell(model())
            pi.pulls = [pull(state=PULL_STATE_FAILED, reason="the disk is full")]
            await pi.tell()
            async with asyncio.timeout(PATIENCE):
                _, err = await process.communicate()
        assert process.returncode == 1
        assert f"1 of 2 nodes have {NAME}; pi: the disk is full" in err.decode()
        pi.pulls = []
        await pi.tell(model(content="another"))
        found = await shown(admin, "pi differs")
        assert f"  fix: `clusteractl model sync {NAME}`" in found
        assert f" has {NAME} as " in (await admin("model", "sync")).out
        assert (await admin("model", "rm", NAME, "--node", "pi")).out == f"{NAME} is being removed from pi.\n"


async def test_what_cannot_be_placed_is_refused_with_the_reason(daemon: KillableDaemon, admin: Ctl) -> None:
    async with model_node(daemon, "pi", gpu=0):
        ended = await admin("model", "place", NAME, "--gpu", "--json")
        assert (ended.code, ended.error["code"]) == (1, "no-place")
        assert (await admin("model", "place", NAME, "--node", "nobody")).code == 3
        placed = await admin("model", "place", NAME, "--replicas", "3", "--json")
        assert [one["node_id"] for one in placed.data["candidates"] if one["chosen"]] == ["pi"]
