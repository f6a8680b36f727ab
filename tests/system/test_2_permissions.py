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
    refused = call(server, "clusterai", "StartTransientUnit", "ssa(sv)a(sa(sv))", *transient("ollama.service"))
    assert is_refused(refused)
    assert server.finished(["test", "-e", "/etc/owned"]).returncode != 0
