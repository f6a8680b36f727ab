"""A removed node is out at once, and can only come back by joining."""

from concurrent.futures import ThreadPoolExecutor

from lab.cluster import Cluster


def test_a_removed_node_is_cut_off_and_its_worker_stops(cluster: Cluster) -> None:
    beta = cluster.lab["beta"]
    unit = f"clusterai-worker@{cluster.registered()['beta']['worker_name']}.service"
    cluster.ctl("node", "remove", "beta", "--yes")
    assert cluster.node("beta") == {}
    cluster.until(lambda: "beta" not in cluster.registered(), "beta's worker is gone", seconds=30)
    beta.eventually(lambda: beta.unit(unit, "ActiveState") == "inactive", "its unit stopped", seconds=20)
    beta.run(["systemctl", "restart", "clusterai-agent"])
    beta.eventually(lambda: beta.unit("clusterai-agent.service", "ActiveState") == "active", "the agent idles")
    assert cluster.node("beta") == {}


def test_a_removed_node_comes_back_when_both_sides_approve(cluster: Cluster) -> None:
    """Without a token: the node shows a code, and the server's operator types it."""
    join = ["clusterai-agent", "join", "--approve", "--force", "--server", cluster.server.address]
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(cluster.lab["beta"].run, join, stdin="y\n", seconds=60)
        cluster.until(lambda: cluster.state("beta") == "pending", "beta asks to be let in", seconds=30)
        code = cluster.node("beta")["approval_code"]
        cluster.ctl("node", "approve", "beta", "--code", code)
        assert code in joining.result()
    cluster.until_state("beta", "ready", seconds=30)
    cluster.until_working("beta", seconds=30)
