"""What installing our packages with apt leaves: a running server, agents that wait, hardened units."""

import pytest

from lab.cluster import Cluster

NODES = ("alpha", "beta", "gamma")
SCORES = {
    "clusterai-gateway.service": ("server", 3.5),
    "open-webui.service": ("server", 1.5),
    "clusterai-repository.service": ("server", 2.0),
    "clusteraid.service": ("server", 2.0),
    "clusterai-scheduler@main.service": ("server", 3.5),
    "clusterai-agent.service": ("alpha", 2.0),
    "clusterai-worker@alpha-0.service": ("alpha", 3.5),
    "clusterai-gate.service": ("alpha", 2.0),
    "clusterai-mirror.service": ("alpha", 2.0),
}


@pytest.mark.parametrize("name", ["server", *NODES])
def test_no_unit_has_failed(cluster: Cluster, name: str) -> None:
    machine = cluster.lab[name]
    assert machine.failed_units() == []
    assert machine.run(["systemctl", "is-system-running"]).strip() == "running"


def test_the_daemon_runs_and_says_how_it_is(cluster: Cluster) -> None:
    assert cluster.server.unit("clusteraid.service", "ActiveState") == "active"
    assert cluster.server.unit("clusteraid.service", "SubState") == "running"
    assert cluster.server.unit("clusteraid.service", "StatusText")
    assert cluster.ctl("status")


def test_the_gateway_runs_with_the_cluster_s_certificates(cluster: Cluster) -> None:
    server, directory = cluster.server, "/var/lib/clusterai-gateway"
    assert server.unit("clusterai-gateway.service", "ActiveState") == "active"
    assert server.unit("clusterai-gateway.service", "UnitFileState") == "enabled"
    server.shell(
        f"for i in $(seq 300); do curl -fsS --cacert {directory}/cluster-ca.pem https://localhost/cluster/ && exit;"
        " sleep 0.1; done; exit 1"
    )
    assert server.shell("curl -sS http://127.0.0.1:11434/api/tags").find("no-key") > 0
    assert "301" in server.shell("curl -sSI http://127.0.0.1/ -H 'Host: tower.local'")
    assert server.shell(f"find {directory} -name '.placeholder*'") == ""


def test_open_webui_waits_until_it_is_set_up_and_has_not_failed(cluster: Cluster) -> None:
    assert cluster.server.unit("open-webui.service", "ActiveState") == "inactive"
    assert cluster.server.unit("open-webui.service", "UnitFileState") == "enabled"


@pytest.mark.parametrize("name", NODES)
def test_an_agent_that_has_not_joined_waits_and_has_not_failed(cluster: Cluster, name: str) -> None:
    agent = "clusterai-agent.service"
    assert cluster.lab[name].unit(agent, "ActiveState") == "inactive"
    assert cluster.lab[name].unit(agent, "ConditionResult") == "no"
    assert cluster.lab[name].unit(agent, "UnitFileState") == "enabled"


@pytest.mark.parametrize("unit", SCORES)
@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_units_are_hardened(cluster: Cluster, unit: str, release: str) -> None:
    name, limit = SCORES[unit]
    machine = cluster.lab[name if release == "bookworm" else "gamma"]
    machine.write(f"/srv/score/{unit}", cluster.lab[name].run(["systemctl", "cat", unit]))
    assert machine.exposure(f"/srv/score/{unit}", "--offline=true") <= limit


@pytest.mark.parametrize("name", ["server", *NODES])
def test_configuration_that_was_there_is_kept(cluster: Cluster, name: str) -> None:
    assert "wheel_directory" in cluster.lab[name].run(["cat", "/etc/clusterai/agent.toml"])
    assert "ok" in cluster.lab[name].run(["clusterai-agent", "--check-config"])


def test_the_daemon_s_shipped_configuration_is_the_defaults(cluster: Cluster) -> None:
    assert "ok" in cluster.server.run(["clusteraid", "--check-config"])


@pytest.mark.parametrize("page", ["clusteraid", "clusterai-agent", "clusteractl"])
def test_there_is_a_manual_page(cluster: Cluster, page: str) -> None:
    file = cluster.server.run(["man", "-w", page]).strip()
    text = cluster.server.shell(f"zcat {file}")
    assert ".SH" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("path", ["bash-completion/completions/clusteractl", "zsh/vendor-completions/_clusteractl",
                                  "fish/vendor_completions.d/clusteractl.fish"])
def test_the_shell_completes_clusteractl(cluster: Cluster, path: str) -> None:
    assert "clusteractl" in cluster.server.run(["cat", f"/usr/share/{path}"])


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        ("/var/lib/clusterai", "clusterai:clusterai", "700"),
        ("/var/lib/clusterai-agent", "clusterai-agent:clusterai-agent", "700"),
        ("/var/lib/clusterai-compute", "clusterai-agent:clusterai-dask", "2750"),
        ("/var/lib/clusterai-scheduler", "clusterai:clusterai-dask", "2750"),
        ("/var/lib/clusterai-dask", "clusterai-dask:clusterai-dask", "700"),
        ("/var/lib/clusterai-gateway", "clusterai:clusterai-gateway", "2750"),
        ("/var/lib/clusterai-gateway/gateway.pem", "clusterai:clusterai-gateway", "640"),
        ("/var/lib/clusterai-gateway/keys.json", "clusterai:clusterai-gateway", "640"),
        ("/var/lib/clusterai-gateway/routes.json", "clusterai:clusterai-gateway", "640"),
        ("/var/lib/clusterai-repo", "clusterai:clusterai-gateway", "2750"),
        ("/var/lib/open-webui", "root:open-webui", "2750"),
        ("/var/lib/open-webui/data", "open-webui:open-webui", "700"),
        ("/run/clusterai", "clusterai:clusterai", "750"),
        ("/run/clusterai/clusteraid.sock", "clusterai:clusterai", "660"),
        ("/run/clusterai-local", "clusterai:clusterai-agent", "2750"),
        ("/run/clusterai-dask", "clusterai-dask:clusterai-dask", "750"),
    ],
)
def test_each_directory_belongs_to_who_needs_it(cluster: Cluster, path: str, owner: str, mode: str) -> None:
    assert cluster.server.run(["stat", "-c", "%U:%G %a", path]).split() == [owner, mode]


def test_the_user_that_runs_computations_reads_no_key_but_dask_s(cluster: Cluster) -> None:
    for secret in ("/var/lib/clusterai/pki", "/var/lib/clusterai-agent", "/run/clusterai-local", "/run/clusterai"):
        told = cluster.server.run_as("clusterai-dask", ["ls", secret])
        assert "Permission denied" in told.stderr, secret
