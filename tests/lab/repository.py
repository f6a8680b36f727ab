"""What machines are given to install from: an apt repository of our packages, and the compute environment's wheels."""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from lab import cache
from lab.commands import run
from lab.images import ROOT


def publish(packages: Iterable[Path], repository: Path) -> None:
    """Put .debs into the repository, beside what is there, and write its index anew."""
    repository.mkdir(parents=True, exist_ok=True)
    for package in packages:
        shutil.copy(package, repository)
    index = run(["sh", "-euc", 'cd "$1" && apt-ftparchive packages .', "sh", repository])
    (repository / "Packages").write_text(index)


def build(output: Path, *, version: str = "", release: str = "bookworm", verify: bool = False) -> list[Path]:
    """Build our packages from this tree in the release; return their paths."""
    options = (["--version", version] if version else []) + (["--verify"] if verify else [])
    run([ROOT / "scripts/build-debs", "--output", output, "--release", release, *options], seconds=600)
    return sorted((output / release).glob("*.deb"))


def wheels() -> Path:
    """Return a directory with every wheel that the pool's lock names; the first call fetches them."""
    lock = ROOT / "common/clusterai/data/pool.lock"

    def fetch(path: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        run([*pip, "--no-deps", "--only-binary", ":all:", "-r", lock, "-d", path], seconds=600)

    return cache.made_once("wheels", f"{sys.version_info[:2]} {lock.read_text()}", fetch)


def chat_clients() -> Path:
    """Return a directory with the clients `ollama` and `openai` for this Python minor; the first call makes it."""
    pins = ROOT / "tests/requirements-clients.txt"

    def install(path: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "--only-binary", ":all:", "--target", path, "-r", pins], seconds=300)

    return cache.made_once("clients", f"{sys.version_info[:2]} {pins.read_text()}", install)
