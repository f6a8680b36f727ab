"""Three settings and nothing else get from the agent's file into Ollama's environment."""

import os
import stat
from pathlib import Path

import pytest

from clusterai.ollama_settings import BadSettings, Settings, main, read

GOOD = Settings(8192, 2, "5m")


def run(source: Path, goal: Path) -> int:
    return main([str(source), str(goal)])


def test_the_settings_become_variables_that_systemd_reads(tmp_path: Path) -> None:
    source, goal = tmp_path / "ollama.json", tmp_path / "ollama.env"
    source.write_bytes(GOOD.to_json())
    assert run(source, goal) == 0
    assert goal.read_text() == "OLLAMA_CONTEXT_LENGTH=8192\nOLLAMA_NUM_PARALLEL=2\nOLLAMA_KEEP_ALIVE=5m\n"
    assert stat.S_IMODE(goal.stat().st_mode) == 0o644


def test_without_settings_there_are_no_variables(tmp_path: Path) -> None:
    goal = tmp_path / "ollama.env"
    goal.write_text("OLLAMA_NUM_PARALLEL=9\n")
    assert run(tmp_path / "none", goal) == 0
    assert not goal.exists()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b"x" * 5000,
        b'{"context_length": 8192, "parallel_count": 2, "keep_alive": "5m", "LD_PRELOAD": "/tmp/x"}',
        b'{"context_length": 8192, "parallel_count": 2, "keep_alive": "5m\\nLD_PRELOAD=/tmp/x"}',
        b'{"context_length": "8192\\nLD_PRELOAD=/tmp/x", "parallel_count": 2, "keep_alive": "5m"}',
        b'{"context_length": 8192.5, "parallel_count": 2, "keep_alive": "5m"}',
        b'{"context_length": true, "parallel_count": 2, "keep_alive": "5m"}',
        b'{"context_length": 8192, "parallel_count": 0, "keep_alive": "5m"}',
        b'{"context_length": 8192, "parallel_count": 2, "keep_alive": 5}',
    ],
)  # fmt: skip
def test_anything_else_gives_no_variables(tmp_path: Path, text: bytes) -> None:
    source, goal = tmp_path / "ollama.json", tmp_path / "ollama.env"
    source.write_bytes(text)
    goal.write_text("OLLAMA_NUM_PARALLEL=9\n")
    assert run(source, goal) == 2
    assert not goal.exists()


def test_root_follows_no_link_and_waits_for_nothing(tmp_path: Path) -> None:
    secret, link, pipe = tmp_path / "secret", tmp_path / "link", tmp_path / "pipe"
    secret.write_bytes(GOOD.to_json())
    link.symlink_to(secret)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path):
        with pytest.raises(BadSettings):
            read(path)


@pytest.mark.parametrize("keep_alive", ["-1", "0", "300", "5m", "1h30m", "500ms"])
def test_the_ways_to_say_how_long(keep_alive: str) -> None:
    assert Settings(8192, 1, keep_alive).checked().keep_alive == keep_alive
