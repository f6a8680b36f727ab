"""A test double of Ollama. Model weights cannot be had in tests: it answers with made-up words, all else is as there.

    async with fake_ollama(directory / "models", OLLAMA_MAX_QUEUE="1") as ollama:
        llama.install(ollama.settings.models)       # of fakes.registry.make_model
        ollama.faults.token_seconds = 0.1

`python3 -m fakes.ollama serve` runs it as a program, and `make_program` makes one file of it that passes for `ollama`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fakes.ollama.faults import Faults
from fakes.ollama.server import FakeOllama, Seen
from fakes.ollama.settings import Settings
from fakes.ollama.store import damage_blob

__all__ = ["FakeOllama", "Faults", "Seen", "Settings", "damage_blob", "fake_ollama", "make_program"]


@asynccontextmanager
async def fake_ollama(models: Path, **variables: str) -> AsyncIterator[FakeOllama]:
    """Run a double in this process, on a free port of the loopback interface unless OLLAMA_HOST says otherwise."""
    environment = {"OLLAMA_HOST": "127.0.0.1:0", "OLLAMA_MODELS": str(models), **variables}
    async with FakeOllama(Settings.of(environment)) as ollama:
        yield ollama


def make_program(path: Path) -> Path:
    """Write the double as one executable file that needs only /usr/bin/python3; return the path."""
    import zipfile

    package = Path(__file__).resolve().parents[1]
    with path.open("wb") as file:
        file.write(b"#!/usr/bin/python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for source in sorted(package.rglob("*.py")):
                archive.write(source, source.relative_to(package.parent))
            archive.writestr("__main__.py", "import sys\nfrom fakes.ollama.__main__ import main\nsys.exit(main())\n")
    path.chmod(0o755)
    return path
