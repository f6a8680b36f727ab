"""A server on the newest Debian, whose gRPC, OpenSSL and Python are newer: it starts, and nodes join it."""

import json

import pytest

from lab.cluster import Cluster
from lab.lab import Lab


@pytest.fixture(scope="module")
def newer(lab: Lab) -> Cluster:
    """What was a node, and was purged, with the server's packages; and a node for it, with another Python."""
    lab["gamma"].write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/repository ./\n")  # before, its server's
    lab["gamma"].install("clusteraid")
    lab["alpha"].install("clusterai-agent")
    return Cluster(lab, server="gamma")


def test_its_own_node_becomes_ready(newer: Cluster) -> None:
    newer.until_state("gamma", "ready")
    assert newer.server.unit("clusteraid.service", "NRestarts") == "0"
    assert newer.server.failed_units() == []


def test_an_older_machine_joins_it(newer: Cluster) -> None:
    newer.join("alpha", "--server", newer.server.address)
    newer.until_state("alpha", "incompatible")
    assert "3.13" in newer.node("alpha")["reason"]
    assert newer.server.unit("clusteraid.service", "NRestarts") == "0"


def test_its_gateway_answers_and_writes_its_log(newer: Cluster) -> None:
    """Another nginx, another LuaJIT."""
    server = newer.server
    ask = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:11434/api/tags"]
    server.eventually(lambda: server.run(ask, check=False) in ("200", "401"), "it answers")
    log = ["journalctl", "-t", "clusterai_gateway", "-o", "cat", "--no-pager"]
    server.eventually(lambda: '"path":"/api/tags"' in server.run(log), "it is written down")
    assert "lua" not in server.journal(unit="clusterai-gateway.service")


def test_the_doctor_misses_nothing_but_the_wheels_for_its_python(newer: Cluster) -> None:
    """The lab has wheels for one Python only, and no network beyond itself."""
    told = newer.server.finished(["clusteractl", "doctor", "--json"]).stdout
    outcomes = {check["check"]: check["outcome"] for check in json.loads(told)["checks"]}
    assert len(outcomes) > 8
    assert {check for check, outcome in outcomes.items() if outcome == "failed"} <= {"environment"}
