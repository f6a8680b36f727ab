"""What polkit lets our users do to units on both releases: start and stop what is theirs, and nothing else."""

from collections.abc import Iterator

import pytest

from lab.cluster import Cluster
from lab.machine import Machine

MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
WORKER = "clusterai-worker@nobody-0.service"
REFUSED = ("Access denied", "Interactive authentication required")


def call(machine: Machine, user: str, method: str, signature: str, *values: str) -> str:
    """Call systemd's manager as the user; return what went wrong, empty when nothing did."""
    done = machine.run_as(user, ["busctl", "call", *MANAGER, method, signature, *values])
    return done.stderr.strip() or ("" if done.returncode == 0 else f"status {done.returncode}")


def is_refused(said: str) -> bool:
    """Whether polkit said no."""
    return any(word in said for word in REFUSED)


@pytest.fixture(params=["alpha", "gamma"], ids=["bookworm", "trixie"])
def node(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Machine]:
    """A node of each release; the worker unit that a test started is stopped."""
    machine = cluster.lab[request.param]
    yield machine
    machine.run(["systemctl", "stop", WORKER])
    machine.run(["systemctl", "reset-failed", WORKER], check=False)


def test_the_agent_starts_restarts_and_stops_its_workers(node: Machine) -> None:
    assert call(node, "clusterai-agent", "StartUnit", "ss", WORKER, "replace") == ""
    assert node.unit(WORKER, "ActiveState") != "inactive"
    assert call(node, "clusterai-agent", "RestartUnit", "ss", WORKER, "replace") == ""
    assert call(node, "clusterai-agent", "StopUnit", "ss", WORKER, "replace") == ""


@pytest.mark.parametrize(
    ("method", "signature", "values"),
    [
        ("StartUnit", "ss", ("getty@tty1.service", "replace")),
        ("StopUnit", "ss", ("dbus.service", "replace")),
        ("RestartUnit", "ss", ("clusterai-agent.service", "replace")),
        ("StartUnit", "ss", ("clusterai-worker@..-0.service", "replace")),
        ("StartUnit", "ss", ("clusterai-gate@x.service", "replace")),
        ("StartUnit", "ss", ("ollama.service", "replace")),
        ("StopUnit", "ss", ("ollama.service", "replace")),
        ("KillUnit", "ssi", (WORKER, "all", "9")),
        ("SetUnitProperties", "sba(sv)", (WORKER, "true", "1", "MemoryMax", "t", "1000000")),
        ("EnableUnitFiles", "asbb", ("1", WORKER, "true", "false")),
        ("Reload", "", ()),
        ("SetEnvironment", "as", ("1", "A=B")),
        ("PowerOff", "", ()),
    ],
)
def test_the_agent_may_do_nothing_else(node: Machine, method: str, signature: str, values: tuple[str, ...]) -> None:
    node.run(["systemctl", "start", WORKER])
    assert is_refused(call(node, "clusterai-agent", method, signature, *values))


@pytest.mark.parametrize("unit", ["clusterai-gate.service", "clusterai-mirror.service"])
def test_the_agent_controls_the_gate_and_the_way_to_the_server_s_models(node: Machine, unit: str) -> None:
    try:
        assert call(node, "clusterai-agent", "StartUnit", "ss", unit, "replace") == ""
        for method in ("ReloadUnit", "TryRestartUnit", "RestartUnit", "StopUnit"):
            assert not is_refused(call(node, "clusterai-agent", method, "ss", unit, "replace")), method
    finally:
        node.run(["systemctl", "stop", unit])
        node.run(["systemctl", "reset-failed", unit], check=False)


def test_the_agent_may_restart_ollama_and_never_start_it(node: Machine) -> None:
    """Where there is no such unit, polkit's yes shows in that systemd goes on and misses it."""
    for method in ("RestartUnit", "TryRestartUnit"):
        assert not is_refused(call(node, "clusterai-agent", method, "ss", "ollama.service", "replace")), method
    values = transient("ollama.service")
    assert is_refused(call(node, "clusterai-agent", "StartTransientUnit", "ssa(sv)a(sa(sv))", *values))
    assert node.finished(["test", "-e", "/etc/owned"]).returncode != 0


@pytest.mark.parametrize("user", ["clusterai-dask", "nobody"])
def test_other_users_may_not_touch_workers(node: Machine, user: str) -> None:
    assert is_refused(call(node, user, "StartUnit", "ss", WORKER, "replace"))
    assert is_refused(call(node, user, "StopUnit", "ss", WORKER, "replace"))


def transient(unit: str) -> tuple[str, ...]:
    """Return the values of StartTransientUnit for a unit that would write a file as root."""
    command = ("1", "/bin/touch", "2", "/bin/touch", "/etc/owned", "false")
    return (unit, "replace", "1", "ExecStart", "a(sasb)", *command, "0")


def test_a_transient_unit_with_a_permitted_name_is_refused(node: Machine) -> None:
    """On systemd 257 polkit is asked for it as for a start of that name: it would run any command as root."""
    template = node.run(["systemctl", "show", "--value", "--property=FragmentPath", WORKER]).strip()
    node.shell(f"mv {template} /run/template && systemctl daemon-reload")
    try:
        assert is_refused(call(node, "clusterai-agent", "StartTransientUnit", "ssa(sv)a(sa(sv))", *transient(WORKER)))
    finally:
        node.shell(f"mv /run/template {template} && systemctl daemon-reload")
    assert node.finished(["test", "-e", "/etc/owned"]).returncode != 0


def test_the_daemon_controls_its_scheduler_and_nothing_else(cluster: Cluster) -> None:
    scheduler, server = "clusterai-scheduler@other.service", cluster.server
    try:
        assert call(server, "clusterai", "StartUnit", "ss", scheduler, "replace") == ""
        assert call(server, "clusterai", "StopUnit", "ss", scheduler, "replace") == ""
    finally:
        server.run(["systemctl", "stop", scheduler])
        server.run(["systemctl", "reset-failed", scheduler], check=False)
    for unit in (WORKER, "clusterai-agent.service", "systemd-journald.service", "clusterai-scheduler@a/b.service"):
        assert call(server, "clusterai", "StartUnit", "ss", unit, "replace") != "", unit


@pytest.mark.parametrize("unit", ["ollama.service", "nginx.service", "clusterai-gate.service"])
def test_no_unit_that_may_be_missing_can_be_made_up_by_the_daemon(cluster: Cluster, unit: str) -> None:
    server = cluster.server
    assert is_refused(call(server, "clusterai", "StartUnit", "ss", unit, "replace"))
    assert is_refused(call(server, "clusterai", "StartTransientUnit", "ssa(sv)a(sa(sv))", *transient(unit)))
    assert server.finished(["test", "-e", "/etc/owned"]).returncode != 0


@pytest.mark.parametrize("unit", ["clusterai-gateway.service", "open-webui.service"])
def test_the_daemon_starts_stops_and_reloads_what_serves_the_gateway(cluster: Cluster, unit: str) -> None:
    server = cluster.server
    before = server.unit(unit, "ActiveState")
    for method in ("StopUnit", "StartUnit", "RestartUnit", "ReloadOrRestartUnit"):
        assert not is_refused(call(server, "clusterai", method, "ss", unit, "replace")), method
    assert is_refused(call(server, "clusterai", "KillUnit", "ssi", unit, "all", "9"))
    template = server.run(["systemctl", "show", "--value", "--property=FragmentPath", unit]).strip()
    server.shell(f"systemctl stop {unit}; mv {template} /run/template && systemctl daemon-reload")
    try:
        assert is_refused(call(server, "clusterai", "StartTransientUnit", "ssa(sv)a(sa(sv))", *transient(unit)))
    finally:
        server.shell(f"mv /run/template {template} && systemctl daemon-reload")
        if before == "active":
            server.run(["systemctl", "start", unit])
    assert server.finished(["test", "-e", "/etc/owned"]).returncode != 0


def test_the_daemon_restarts_an_ollama_and_does_not_start_or_stop_one(cluster: Cluster) -> None:
    server = cluster.server
    server.shell("printf '[Service]\\nExecStart=/bin/sleep 1000\\n' >/run/systemd/system/ollama.service")
    server.run(["systemctl", "daemon-reload"])
    try:
        assert is_refused(call(server, "clusterai", "StartUnit", "ss", "ollama.service", "replace"))
        assert call(server, "clusterai", "RestartUnit", "ss", "ollama.service", "replace") == ""
        assert is_refused(call(server, "clusterai", "StopUnit", "ss", "ollama.service", "replace"))
    finally:
        server.shell("systemctl stop ollama.service; rm /run/systemd/system/ollama.service; systemctl daemon-reload")
