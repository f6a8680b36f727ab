"""The double of Ollama as one file, run by the distribution's own Python, which has none of the test tools."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fakes.http import asked
from fakes.ollama import make_program
from fakes.registry import make_model
from support.waiting import until

QUESTION = json.dumps({"model": "tiny", "prompt": "Why?"}).encode()


def run(program: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", **variables}
    return subprocess.run([program, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)


@asynccontextmanager
async def program(directory: Path, **variables: str) -> AsyncIterator[tuple[Path, str, asyncio.subprocess.Process]]:
    """Make and run it; yield its path, its URL and its process."""
    path = make_program(directory / "ollama")
    process = await asyncio.create_subprocess_exec(
        path, "serve", stderr=asyncio.subprocess.PIPE, cwd=directory,
        env={"OLLAMA_HOST": "127.0.0.1:0", "OLLAMA_MODELS": str(directory / "models"), "PATH": "/usr/bin:/bin",
             **variables},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            line = (await process.stderr.readline()).decode()
        assert line.startswith("Listening on http://127.0.0.1:"), line
        yield path, line.split()[2], process
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            await process.communicate()


async def test_one_file_of_it_passes_for_the_program(tmp_path: Path) -> None:
    make_model("tiny", 5_000).install(tmp_path / "models")
    async with program(tmp_path) as (path, url, process):
        assert "tiny:latest" in (await asyncio.to_thread(run, path, "list", OLLAMA_HOST=url)).stdout
        said = (await asyncio.to_thread(run, path, "--version", OLLAMA_HOST=url)).stdout
        assert said == "ollama version is 0.31.1\n"
    assert process.returncode == 0
    assert "client version is" in run(path, "--version", OLLAMA_HOST="127.0.0.1:1").stdout


async def test_five_hundred_streams_at_once_are_whole_and_leave_nothing(tmp_path: Path) -> None:
    make_model("tiny", 5_000).install(tmp_path / "models")

    async def one() -> int:
        async with asked("POST", f"{url}/api/generate", None, QUESTION) as answer:
            return (await answer.body()).count(b"\n")

    async with program(tmp_path, OLLAMA_NUM_PARALLEL="500") as (_, url, process):
        files = Path(f"/proc/{process.pid}/fd")
        before = len(list(files.iterdir()))
        async with asked("POST", f"{url}/fake/faults", None, b'{"token_seconds": 0.1}') as answer:
            assert answer.status == 200
        assert set(await asyncio.gather(*(one() for _ in range(500)))) == {13}
        await asyncio.gather(*(left_after_a_line(url) for _ in range(500)))
        await until(lambda: len(list(files.iterdir())) <= before)
        async with asked("GET", f"{url}/fake/state") as answer:
            state = json.loads(await answer.body())
        assert (state["in_flight"], len(state["aborts"])) == (0, 500)


async def left_after_a_line(url: str) -> None:
    async with asked("POST", f"{url}/api/generate", None, QUESTION) as answer:
        assert await answer.read()
