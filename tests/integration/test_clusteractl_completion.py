"""Completion as a shell asks for it."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.ctl import Ctl
from support.fake_daemon import FakeDaemon, made_up_cluster


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with made_up_cluster() as running:
        yield running


async def completed(daemon_socket: Path, home: Path, line: str) -> list[str]:
    """What bash would offer for the last word of the line."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_CLUSTERACTL_COMPLETE": "bash_complete"}
    ended = await Ctl(home, daemon_socket, asked)()
    assert (ended.code, ended.err) == (0, "")
    return [offer.partition(",")[2] for offer in ended.out.splitlines() if offer]


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("clusteractl n", ["node"]),
        ("clusteractl node dr", ["drain"]),
        ("clusteractl token create --ro", ["--role"]),
        ("clusteractl token create --role v", ["viewer"]),
        ("clusteractl completion f", ["fish"]),
        ("clusteractl model catalog --for p", ["programming"]),
        ("clusteractl ke", ["key"]),
    ],
)
async def test_words_are_completed_without_asking_the_daemon(
    line: str, offers: list[str], daemon: FakeDaemon, tmp_path: Path
) -> None:
    assert await completed(daemon.socket, tmp_path, line) == offers
    assert daemon.requests == []


@pytest.mark.parametrize("line", ["clusteractl node drain t", "clusteractl logs --node t"])
async def test_node_names_are_those_of_the_cluster(line: str, daemon: FakeDaemon, tmp_path: Path) -> None:
    assert await completed(daemon.socket, tmp_path, line) == ["tower"]


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("clusteractl model pull llama3.2:3b --node t", ["tower"]),
        ("clusteractl model show q", ["qwen3:32b"]),
        ("clusteractl why l", ["llama3.2:3b"]),
        ("clusteractl key create --model q", ["qwen3:32b"]),
        ("clusteractl model pull h", ["huge:400b"]),
        ("clusteractl worker list --pool m", ["main"]),
        ("clusteractl dask env --pool m", ["main"]),
        ("clusteractl key revoke ", ["k3v7q2xa", "aaaaaaaa", "bbbbbbbb", "dddddddd"]),
    ],
)
async def test_models_pools_and_keys_are_those_of_the_cluster(
    line: str, offers: list[str], daemon: FakeDaemon, tmp_path: Path
) -> None:
    assert await completed(daemon.socket, tmp_path, line) == offers


async def test_a_silent_or_absent_daemon_means_no_names_and_no_noise(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.cluster.answer_delay_seconds = 20
    assert await completed(daemon.socket, tmp_path, "clusteractl node show ") == []
    assert await completed(tmp_path / "none", tmp_path, "clusteractl node show ") == []


_ASK_BASH = """
. "$1"
complete -p clusteractl
COMP_WORDS=(clusteractl node dr) COMP_CWORD=2
_clusteractl_completion clusteractl
printf '%s\\n' "${COMPREPLY[@]}"
"""


async def test_bash_takes_the_script_and_completes_with_it(tmp_path: Path) -> None:
    user = Ctl(tmp_path)
    script, command = tmp_path / "script", tmp_path / "clusteractl"
    script.write_text((await user("completion", "bash")).out)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m clusteractl "$@"\n')
    command.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        "bash", "--norc", "-c", _ASK_BASH, "bash", str(script),
        env={**user.environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert err == b""
    assert out.decode().splitlines()[1:] == ["drain"]
    assert b"_clusteractl_completion clusteractl" in out
