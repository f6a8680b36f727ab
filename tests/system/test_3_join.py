"""Joining: with a token over multicast, with a named server, and a node that does not fit the pool."""

import pytest

from lab.cluster import Cluster

BUILD_SECONDS = 180.0


def test_the_server_is_a_node_of_its_own_cluster(cluster: Cluster) -> None:
    cluster.until_state("server", "ready", seconds=BUILD_SECONDS)
    cluster.until_working("server", seconds=BUILD_SECONDS)


def test_a_node_finds_the_server_by_multicast(cluster: Cluster) -> None:
    said = cluster.join("alpha")
    assert "alpha" in said
    cluster.until_state("alpha", "ready", seconds=BUILD_SECONDS)
    cluster.until_working("alpha", seconds=BUILD_SECONDS)


def test_a_node_joins_a_server_that_is_named(cluster: Cluster) -> None:
    cluster.join("beta", "--server", cluster.server.address)
    cluster.until_state("beta", "ready", seconds=BUILD_SECONDS)
    cluster.until_working("beta", seconds=BUILD_SECONDS)


def test_a_token_works_once(cluster: Cluster) -> None:
    gamma = cluster.lab["gamma"]
    token = cluster.ctl("token", "create")
    gamma.run(["clusterai-agent", "join", "--token-file", "-", "--no-start"], stdin=token)
    refused = gamma.finished(["clusterai-agent", "join", "--force", "--token-file", "-"], stdin=token)
    assert refused.returncode == 4
    assert "clusteractl token create" in refused.stderr


def test_a_node_with_another_python_is_incompatible_and_told_the_fix(cluster: Cluster) -> None:
    cluster.lab["gamma"].run(["systemctl", "restart", "clusterai-agent"])
    cluster.until_state("gamma", "incompatible", seconds=30)
    node = cluster.node("gamma")
    assert "3.11" in node["reason"]
    assert "3.11" in node["hint"]
    assert "gamma" not in cluster.registered()
    assert cluster.lab["gamma"].failed_units() == []
    assert "3.11" in cluster.ctl("node", "show", "gamma")


def test_joining_again_builds_no_environment(cluster: Cluster) -> None:
    """Beta leaves and joins again: how long that takes is measured by `scripts/bench failover`."""
    beta = cluster.lab["beta"]
    built = beta.shell(environments := "stat -c '%n %i' /var/lib/clusterai-compute/env/*")
    beta.run(["clusterai-agent", "leave", "--yes"])
    cluster.ctl("node", "remove", "beta", "--yes")
    cluster.join("beta")
    cluster.until_working("beta")
    assert beta.shell(environments) == built != ""


def test_facts_and_samples_of_a_node_are_shown(cluster: Cluster) -> None:
    node = cluster.node("alpha")
    assert node["facts"]["os_name"].startswith("Debian GNU/Linux 12")
    assert "3.11" in node["facts"]["pythons"]
    cluster.until(lambda: bool(cluster.node("alpha")["sample"]), "a sample of alpha", seconds=30)


@pytest.mark.parametrize("name", ["server", "alpha", "beta", "gamma"])
def test_systemd_and_clusteractl_and_the_journal_agree(cluster: Cluster, name: str) -> None:
    machine = cluster.lab[name]
    assert machine.unit("clusterai-agent.service", "ActiveState") == "active"
    assert machine.failed_units() == []
    workers = {} if name == "gamma" else {name: cluster.registered()[name]}
    for worker in workers.values():
        unit = f"clusterai-worker@{worker['worker_name']}.service"
        assert machine.unit(unit, "ActiveState") == "active"
        assert machine.main_process(unit) == worker["process_id"]
        assert machine.journal(unit=unit)


def test_the_server_s_units_are_shown_as_systemd_shows_them(cluster: Cluster) -> None:
    for unit in cluster.json("unit", "list")["units"]:
        assert unit["active_state"] == cluster.server.unit(unit["unit"], "ActiveState"), unit
        assert unit["main_process_id"] == cluster.server.main_process(unit["unit"]), unit


def test_logs_of_a_node_are_read_from_the_server(cluster: Cluster) -> None:
    assert cluster.ctl("logs").strip()
    assert cluster.ctl("logs", "--node", "alpha").strip()


def test_the_doctor_finds_nothing_wrong_on_the_server(cluster: Cluster) -> None:
    checks = cluster.json("doctor")["checks"]
    assert [check for check in checks if check["outcome"] == "failed"] == []
