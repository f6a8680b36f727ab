"""The server's own package repository: published by root, signed, served by the gateway, used by other machines."""

import json

from lab.cluster import Cluster

AGENT = ("clusterai-agent", "python3-clusterai")
DIRECTORY = "/var/lib/clusterai-repo"


def check(cluster: Cluster) -> dict[str, str]:
    """Return what `clusteractl doctor` finds of the repository."""
    told = json.loads(cluster.server.finished(["clusteractl", "doctor", "--json"]).stdout)
    return next(one for one in told["checks"] if one["check"] == "repository")


def setup_line(cluster: Cluster) -> str:
    """Return the line for a new machine. The lab's machines have no sudo, and we are root there."""
    line: str = cluster.json("token", "create")["commands"][0]
    assert "sudo sh" in line
    return line.replace("sudo ", "").replace('sh "$f"', 'sh "$f" --yes')


def installed_version(cluster: Cluster, name: str) -> str:
    return cluster.lab[name].run(["dpkg-query", "-W", "-f", "${Version}", "clusterai-agent"])


def test_until_something_is_published_there_is_no_line_and_no_complaint(cluster: Cluster) -> None:
    assert check(cluster)["outcome"] == "not-applicable"
    assert cluster.json("token", "create")["commands"][0].startswith("sudo apt install ./")
    assert cluster.server.unit("clusterai-repository.timer", "ActiveState") == "active"
    cluster.server.run(["systemctl", "start", "clusterai-repository.service"])
    assert cluster.server.unit("clusterai-repository.service", "ConditionResult") == "no"


def test_root_publishes_and_the_files_are_the_daemon_s(cluster: Cluster) -> None:
    said = cluster.server.shell("clusteraid repo add /srv/repository/*.deb", seconds=120)
    assert f"published clusterai-agent {installed_version(cluster, 'alpha')} (debian, all)" in said
    wrong = "-not -user clusterai -o -not -group clusterai-gateway -o -perm /007"
    strangers = f"find {DIRECTORY} '(' {wrong} ')' -not -type l"
    assert cluster.server.shell(strangers) == ""
    key = cluster.server.run(["stat", "-c", "%U:%G %a", "/var/lib/clusterai/repository-key.asc"])
    assert key.split() == ["clusterai:clusterai", "600"]
    assert "clusterai-agent" in cluster.server.run_as("clusterai", ["clusteraid", "repo", "list"]).stdout
    refused = cluster.server.run_as("clusterai-dask", ["clusteraid", "repo", "list"])
    assert refused.returncode == 4
    assert "sudo" in refused.stderr


def test_the_doctor_checks_the_signature_from_within_the_daemon_s_sandbox(cluster: Cluster) -> None:
    found = check(cluster)
    assert found["outcome"] == "ok", found
    inrelease = f"{DIRECTORY}/current/debian/dists/stable/InRelease"
    cluster.server.shell(f"cp -a {inrelease} /srv/kept && echo >{inrelease}")
    assert check(cluster)["outcome"] == "failed"
    cluster.server.shell(f"cat /srv/kept >{inrelease} && rm /srv/kept")
    assert check(cluster)["outcome"] == "ok"


def test_the_timer_s_service_signs_anew_what_is_due(cluster: Cluster) -> None:
    before = cluster.server.run(["readlink", f"{DIRECTORY}/current"])
    cluster.server.run(["systemctl", "start", "clusterai-repository.service"])
    assert cluster.server.run(["readlink", f"{DIRECTORY}/current"]) == before
    cluster.server.shell(f"echo old >{DIRECTORY}/current/setup.sh")
    cluster.server.run(["systemctl", "start", "clusterai-repository.service"])
    assert cluster.server.run(["readlink", f"{DIRECTORY}/current"]) != before
    assert cluster.server.failed_units() == []
    assert check(cluster)["outcome"] == "ok"


def test_a_new_machine_installs_the_agent_with_the_line_of_a_token(cluster: Cluster) -> None:
    """Gamma forgets the lab's repository and ours: from here on its packages come from the server."""
    gamma, version = cluster.lab["gamma"], installed_version(cluster, "gamma")
    gamma.run(["apt-get", "remove", "-q", "-y", *AGENT], seconds=120)
    gamma.shell(": >/etc/apt/sources.list")
    said = gamma.shell(setup_line(cluster), seconds=180)
    assert f"sudo clusterai-agent join --server {cluster.server.address}" in said
    assert installed_version(cluster, "gamma") == version
    assert f"https://{cluster.server.address}/repo/debian" in gamma.run(["apt-cache", "policy", *AGENT])
    assert gamma.unit("clusterai-agent.service", "UnitFileState") == "enabled"
    assert gamma.failed_units() == []


def test_a_machine_of_an_older_debian_reads_it_too(cluster: Cluster) -> None:
    alpha = cluster.lab["alpha"]
    alpha.shell(setup_line(cluster).replace("--yes", "--yes --only-source"), seconds=120)
    assert f"https://{cluster.server.address}/repo/debian" in alpha.run(["apt-cache", "policy", "clusterai-agent"])
