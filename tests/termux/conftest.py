"""Phones that get their packages from a real gateway: each test has a phone of its own, all have one repository."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.debs import Server
from support.gateway import running_gateway
from support.phone_shop import Shop
from support.termux import Phone
from support.tree import ROOT

_HERE = Path(__file__).resolve().parent
NEWER = "99.0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test time for what the first one on a machine does: it makes the root file system."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages, built from this tree, by name."""
    output = tmp_path_factory.mktemp("debs")
    build = [str(ROOT / "scripts/build-termux"), "-o", str(output)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return {deb.name.partition("_")[0]: deb for deb in output.glob("*.deb")}


@pytest.fixture(scope="session")
def newer(debs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same packages as a newer version."""
    return {name: _renumbered(deb, tmp_path_factory.mktemp(name)) for name, deb in debs.items()}


def _renumbered(deb: Path, directory: Path) -> Path:
    tree, made = directory / "tree", directory / f"{deb.name.partition('_')[0]}_{NEWER}_all.deb"
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True, timeout=60)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {NEWER}", control.read_text()))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zxz", "-z0", "-b", tree, made], check=True, timeout=60,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return made


@pytest.fixture(scope="module")
def shop(debs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A gateway that serves a repository with the packages for phones."""
    place = tmp_path_factory.mktemp("shop")
    with running_gateway(place) as gateway, tempfile.TemporaryDirectory() as state:  # short, for gpg's sockets
        server = Server(Path(state), gateway.repository, gateway.authority)
        assert server.repo("add", *debs.values()) == 0
        yield Shop(gateway, server)


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[Phone]:
    """A new phone with nothing of ours."""
    with Phone.on(tmp_path) as phone:
        yield phone
