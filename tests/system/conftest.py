"""One boot for all system tests: a server and three nodes, one of them a newer Debian with another Python.

The tests run in the order of their file names and each goes on from where the last one left the cluster.
"""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from lab import repository
from lab.cluster import Cluster
from lab.lab import Lab

MACHINES = {"server": "bookworm", "alpha": "bookworm", "beta": "bookworm", "gamma": "trixie"}
AGENT_SETTINGS = '[environment]\nwheel_directory = "/srv/wheels"\noffline = true\n'
KEEP_OURS = ("-o", "Dpkg::Options::=--force-confold")
_LAB = pytest.StashKey[Lab]()


@pytest.fixture(scope="session")
def built() -> dict[str, list[Path]]:
    """By release, our packages as a test of this session has built them."""
    return {}


@pytest.fixture(scope="session")
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, built: dict[str, list[Path]]
) -> Iterator[Lab]:
    """The machines, booted, with our packages in their apt repository."""
    packages = built.get("bookworm") or repository.build(tmp_path_factory.mktemp("packages"))
    with Lab(MACHINES, wheels=repository.wheels()) as lab:
        repository.publish(packages, lab.repository)
        request.session.stash[_LAB] = lab
        yield lab
        del request.session.stash[_LAB]


@pytest.fixture(scope="session")
def cluster(lab: Lab) -> Cluster:
    """The machines with our packages installed, the server's and three nodes' that have not joined."""
    for name, machine in lab.machines.items():
        # There is no internet, so wheels come from a directory. apt keeps a configuration file that is there.
        machine.write("/etc/clusterai/agent.toml", AGENT_SETTINGS)
        machine.install("clusteraid" if name == "server" else "clusterai-agent", options=KEEP_OURS)
    return Cluster(lab)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test time for what the first one on a machine does: it makes the images and builds the packages."""
    here = Path(__file__).resolve().parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.timeout(900))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the end of every machine's journal below a failure."""
    report = yield
    lab = item.session.stash.get(_LAB, None)
    if report.failed and lab is not None and "===" not in str(report.longrepr):
        report.sections.append(("machines", lab.story()))
    return report


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """This tree."""
    return Path(__file__).resolve().parents[2]
