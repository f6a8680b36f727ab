"""An upgrade restarts daemon and agents, and leaves state, schedulers, workers and their tasks alone."""


import pytest

from lab import repository
from lab.cluster import Cluster

NEXT = "0.1.0+next1"


@pytest.fixture(scope="module")
def _next_version(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """For gamma in the server's own repository, where it gets all of ours from; for the others in the lab's."""
    repository.publish(repository.build(tmp_path_factory.mktemp("next"), version=NEXT), cluster.lab.repository)
    cluster.server.shell(f"clusteraid repo add /srv/repository/*_{NEXT}_*.deb", seconds=120)


def version(cluster: Cluster, name: str, package: str) -> str:
    """Return the installed version of a package."""
    return cluster.lab[name].run(["dpkg-query", "-W", "-f", "${Version}", package])


@pytest.mark.usefixtures("_next_version")
@pytest.mark.parametrize(
    ("name", "package"), [("server", "clusteraid"), ("alpha", "clusterai-agent"), ("gamma", "clusterai-agent")]
)
def test_running_work_outlives_an_upgrade(cluster: Cluster, name: str, package: str) -> None:
    machine = cluster.lab[name]
    listing = ["systemctl", "list-units", "--plain", "--no-legend", "clusterai-worker@*", "clusterai-scheduler@*"]
    running = {line.split()[0] for line in machine.run(listing).splitlines()}
    before = {unit: machine.main_process(unit) for unit in running}
    agent, nodes = machine.main_process("clusterai-agent.service"), cluster.json("node", "list")["nodes"]
    machine.install(package)
    assert version(cluster, name, package) == NEXT
    assert version(cluster, name, "python3-clusterai") == NEXT
    cluster.until_state(name, "incompatible" if name == "gamma" else "ready", seconds=30)
    assert machine.main_process("clusterai-agent.service") not in (0, agent)
    assert {unit: machine.main_process(unit) for unit in running} == before
    assert [node["node_id"] for node in cluster.json("node", "list")["nodes"]] == [node["node_id"] for node in nodes]
    assert machine.failed_units() == []
    assert "wheel_directory" in machine.run(["cat", "/etc/clusterai/agent.toml"])


def test_the_cluster_works_after_its_upgrade(cluster: Cluster) -> None:
    cluster.until_working("server", "alpha", "beta", seconds=30)
