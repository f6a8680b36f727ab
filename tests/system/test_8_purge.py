"""Purging our packages leaves nothing of ours behind."""

import pytest

from lab.cluster import Cluster

OURS = ("clusteraid", "clusteractl", "clusterai-agent", "python3-clusterai")


@pytest.mark.parametrize("name", ["alpha", "gamma", "server"])
def test_a_purge_leaves_nothing(cluster: Cluster, name: str) -> None:
    machine = cluster.lab[name]
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "purge", "-q", "-y"]
    machine.run([*apt, *OURS], seconds=300)  # with Open WebUI it is 53,000 files
    places = "/etc /usr /var /run /lib/systemd"
    # Lists and downloads of packages are apt's; the journal is the machine's memory.
    left = machine.shell(
        f"find {places} -xdev '(' -iname '*cluster*ai*' -o -iname '*clusteractl*' -o -iname '*open-webui*' ')'"
        " -not -path '/var/lib/apt/*' -not -path '/var/cache/apt/archives/*' -not -path '/var/log/journal/*'"
        " -not -path '/run/credentials/*'"
    ).split()
    assert left == []
    units = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "clusterai*"])
    assert [line for line in units.splitlines() if " active " in line] == []
    processes = machine.run(["ps", "-eo", "user:20,args"])
    assert [line for line in processes.splitlines() if line.startswith("clusterai")] == []
    assert machine.failed_units() == []
