"""Faults: programs killed, machines rebooted, the network cut, the bus restarted, polkit gone."""

import json
import time

import pytest

from lab.cluster import Cluster

ALL = ("server", "alpha", "beta")


def worker_unit(cluster: Cluster, name: str) -> str:
    """Return the unit of the node's worker."""
    return f"clusterai-worker@{cluster.registered()[name]['worker_name']}.service"


def test_a_killed_daemon_comes_back_and_everyone_is_ready(cluster: Cluster) -> None:
    server, workers = cluster.server, {name: worker_unit(cluster, name) for name in ALL}
    before = {name: cluster.lab[name].main_process(unit) for name, unit in workers.items()}
    scheduler = server.main_process("clusterai-scheduler@main.service")
    server.kill_unit("clusteraid.service")
    server.eventually(lambda: server.unit("clusteraid.service", "ActiveState") == "active", "the daemon is back")
    cluster.until(lambda: {cluster.state(name) for name in ALL} == {"ready"}, "all ready", seconds=60)
    assert server.main_process("clusterai-scheduler@main.service") == scheduler
    assert {name: cluster.lab[name].main_process(unit) for name, unit in workers.items()} == before
    cluster.until_working(*ALL)


@pytest.mark.parametrize("name", ["server", "alpha"])
def test_a_killed_agent_comes_back_and_its_worker_goes_on(cluster: Cluster, name: str) -> None:
    machine, unit = cluster.lab[name], worker_unit(cluster, name)
    worker, agent = machine.main_process(unit), machine.main_process("clusterai-agent.service")
    machine.kill_unit("clusterai-agent.service")
    machine.eventually(lambda: machine.main_process("clusterai-agent.service") not in (0, agent), "a new agent")
    cluster.until_state(name, "ready")
    assert machine.main_process(unit) == worker
    cluster.until_working(name)


def test_a_daemon_that_hangs_is_killed_by_its_watchdog_and_comes_back(cluster: Cluster) -> None:
    server, unit = cluster.server, "clusteraid.service"
    drop_in = f"/run/systemd/system/{unit}.d"
    server.shell(f"mkdir -p {drop_in}; printf '[Service]\\nWatchdogSec=3\\n' >{drop_in}/lab.conf")
    server.shell(f"systemctl daemon-reload; systemctl restart {unit}")
    daemon = server.main_process(unit)
    try:
        server.run(["systemctl", "kill", "--signal=SIGSTOP", "--kill-whom=main", unit])
        server.eventually(lambda: server.main_process(unit) not in (0, daemon), "a new daemon")
        assert "Watchdog timeout" in server.journal(unit=unit)
    finally:
        server.shell(f"rm -r {drop_in}; systemctl daemon-reload; systemctl restart {unit}")
    cluster.until(lambda: {cluster.state(name) for name in ALL} == {"ready"}, "all ready", seconds=60)


def test_a_killed_worker_is_registered_again(cluster: Cluster) -> None:
    machine, unit = cluster.lab["alpha"], worker_unit(cluster, "alpha")
    worker = machine.main_process(unit)
    machine.kill_unit(unit)
    machine.eventually(lambda: machine.main_process(unit) not in (0, worker), "a new worker process")
    cluster.until_working("alpha")


def test_a_killed_scheduler_comes_back_with_all_its_workers(cluster: Cluster) -> None:
    server, unit = cluster.server, "clusterai-scheduler@main.service"
    scheduler = server.main_process(unit)
    server.kill_unit(unit)
    server.eventually(lambda: server.main_process(unit) not in (0, scheduler), "a new scheduler")
    cluster.until_working(*ALL, seconds=40)


def test_a_link_cut_for_five_seconds_is_no_absence(cluster: Cluster) -> None:
    alpha, before = cluster.lab["alpha"], cluster.events("node-offline", "alpha")
    alpha.link_down()
    try:
        time.sleep(5)
    finally:
        alpha.link_up()
    cluster.until_state("alpha", "ready", seconds=30)
    assert cluster.events("node-offline", "alpha") == before


def test_a_link_cut_for_long_makes_a_node_offline_and_its_return_ready(cluster: Cluster) -> None:
    alpha = cluster.lab["alpha"]
    before = [cluster.events(kind, "alpha") for kind in ("node-offline", "node-ready")]
    alpha.link_down()
    try:
        cluster.until_state("alpha", "offline")
        time.sleep(6)
    finally:
        alpha.link_up()
    cluster.until_state("alpha", "ready", seconds=40)
    cluster.until_working("alpha", seconds=60)
    after = [cluster.events(kind, "alpha") for kind in ("node-offline", "node-ready")]
    assert after == [count + 1 for count in before]


def test_a_rebooted_node_computes_again_by_itself(cluster: Cluster) -> None:
    cluster.lab["alpha"].reboot()
    cluster.until_state("alpha", "ready", seconds=30)
    cluster.until_working("alpha", seconds=40)
    assert cluster.lab["alpha"].failed_units() == []


def test_a_node_whose_power_was_cut_computes_again_by_itself(cluster: Cluster) -> None:
    cluster.lab["beta"].cut_power()
    cluster.until(lambda: cluster.state("beta") in ("suspect", "offline"), "beta is missed", seconds=30)
    cluster.lab["beta"].boot()
    cluster.until_state("beta", "ready", seconds=30)
    cluster.until_working("beta", seconds=60)


def test_an_incompatible_node_is_still_one_after_a_reboot(cluster: Cluster) -> None:
    cluster.lab["gamma"].reboot()
    cluster.until_state("gamma", "incompatible", seconds=30)
    assert cluster.lab["gamma"].failed_units() == []


def test_a_rebooted_server_has_its_cluster_back(cluster: Cluster) -> None:
    cluster.server.reboot()
    cluster.until(lambda: {cluster.state(name) for name in ALL} == {"ready"}, "all ready", seconds=60)
    cluster.until_working(*ALL, seconds=60)
    assert cluster.server.failed_units() == []


def test_the_daemon_survives_a_restart_of_the_system_bus(cluster: Cluster) -> None:
    server = cluster.server
    daemon, agent = server.main_process("clusteraid.service"), server.main_process("clusterai-agent.service")
    server.run(["systemctl", "restart", "dbus.service"])
    unit = "clusterai-scheduler@main.service"
    cluster.until(
        lambda: server.finished(["clusteractl", "unit", "restart", unit]).returncode == 0, "units obey", seconds=30
    )
    assert server.main_process("clusteraid.service") == daemon
    assert server.main_process("clusterai-agent.service") == agent
    cluster.until_working(*ALL, seconds=60)


def test_without_polkit_the_daemon_says_so_and_recovers(cluster: Cluster) -> None:
    server = cluster.server
    server.run(["systemctl", "mask", "--now", "--runtime", "polkit.service"])
    try:
        refused = server.finished(["clusteractl", "unit", "restart", "clusterai-scheduler@main.service"])
        assert refused.returncode == 4
        assert "polkit" in refused.stderr
        doctor = server.finished(["clusteractl", "doctor", "--json"])
        assert doctor.returncode == 1
        outcomes = {check["check"]: check["outcome"] for check in json.loads(doctor.stdout)["checks"]}
        assert outcomes["polkit"] == "failed"
        assert cluster.state("alpha") == "ready"
    finally:
        server.run(["systemctl", "unmask", "--runtime", "polkit.service"])
    cluster.ctl("unit", "restart", "clusterai-scheduler@main.service")
    cluster.until_working(*ALL, seconds=60)
