"""The Python clients `ollama` and `openai`, pinned, in an environment of their own outside the repository."""

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.tree import ROOT

_PINS = ROOT / "tests/requirements-clients.txt"
_BUILD_SECONDS, _RUN_SECONDS = 280, 120


async def clients_python() -> Path:
    """Return a Python that has the clients. The first call on a machine builds it: 20 s, 73 MB."""
    cache = Path(os.environ.get("CLUSTERAI_CACHE") or Path.home() / ".cache/clusterai")
    directory = cache / "chat-clients" / hashlib.sha256(_PINS.read_bytes()).hexdigest()[:16]
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(_BUILD_SECONDS):
            while not _locked(lock):
                await asyncio.sleep(0.2)
            if not (directory / "finished").exists():
                await _build(directory)
    finally:
        os.close(lock)
    return directory / "bin/python"


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _build(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    await _run(["/usr/bin/python3", "-m", "venv", str(directory)])
    pip = [str(directory / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    await _run([*pip, "--only-binary", ":all:", "-r", str(_PINS)])
    (directory / "finished").touch()


async def _run(command: list[str], variables: Mapping[str, str] | None = None) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(variables or {})},
    )  # fmt: skip
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()[-5000:]
    return out


async def with_clients(script: str, **variables: str) -> Any:
    """Run a script in which `say(value)` says a JSON value, with these environment variables; return what it said."""
    program = f"import json\ndef say(value):\n    print(json.dumps(value))\n{script}"
    async with asyncio.timeout(_BUILD_SECONDS):
        python = await clients_python()
    async with asyncio.timeout(_RUN_SECONDS):
        said = await _run([str(python), "-P", "-c", program], variables)
    return json.loads(said.splitlines()[-1])
