"""Computing: a real job from Python over the whole cluster, and a node taken out of work and back."""

import json
from pathlib import Path

from lab.cluster import Cluster

ENVIRONMENT = "/srv/client"
SETTINGS = "/srv/cluster.env"


def python(cluster: Cluster, script: str, seconds: float = 120) -> str:
    """Run Python in the client's environment on the server with the cluster's settings."""
    return cluster.server.shell(f". {SETTINGS}; exec {ENVIRONMENT}/bin/python {script}", seconds=seconds)


def test_the_client_s_environment_is_built_from_the_pool_s_lock(cluster: Cluster) -> None:
    command = ["dask", "env", "--create", ENVIRONMENT, "--wheels", "/srv/wheels"]
    cluster.server.write(SETTINGS, cluster.ctl(*command, seconds=180))
    versions = cluster.json("status")["pools"][0]["environment"]["versions"]
    script = "-c 'import distributed; print(distributed.__version__)'"
    assert python(cluster, script).strip() == versions["distributed"]


def test_a_census_of_all_machines_is_computed(cluster: Cluster, repository_root: Path) -> None:
    cluster.server.copy_in(repository_root / "examples/census.py", "/srv/census.py")
    python(cluster, "/srv/census.py /usr/share --json --out /srv/census.json", seconds=180)
    result = json.loads(cluster.server.run(["cat", "/srv/census.json"]))
    text = json.dumps(result)
    for name in ("server", "alpha", "beta"):
        assert name in text
    assert "gamma" not in text


def test_an_operator_works_from_another_machine(cluster: Cluster) -> None:
    alpha = cluster.lab["alpha"]
    alpha.install("clusteractl")
    token = cluster.ctl("token", "create", "--role", "operator", "--name", "ann")
    alpha.run(["clusteractl", "login", "--server", "server", "--token-file", "-"], stdin=token)
    names = [node["node_id"] for node in alpha.json(["clusteractl", "node", "list", "--json"])["nodes"]]
    assert sorted(names) == ["alpha", "beta", "gamma", "server"]
    settings = alpha.run(["clusteractl", "dask", "env"])
    assert "tls://server:8786" in settings or f"tls://{cluster.server.address}:8786" in settings
    refused = alpha.finished(["clusteractl", "token", "create", "--role", "admin"])
    assert refused.returncode == 4


def test_tasks_run_as_the_user_that_may_do_nothing_else(cluster: Cluster) -> None:
    cluster.server.write(
        "/srv/who.py",
        "import getpass\nfrom dask.distributed import Client\n"
        "with Client() as client:\n    print(*set(client.run(getpass.getuser).values()))\n",
    )
    assert python(cluster, "/srv/who.py").split() == ["clusterai-dask"]


def test_a_drained_node_gets_no_work_and_loses_none(cluster: Cluster) -> None:
    cluster.server.write(
        "/srv/kept.py",
        "import subprocess\nfrom dask.distributed import Client, wait\n"
        "with Client() as client:\n"
        "    held = client.map(lambda n: n * n, range(60), pure=False)\n    wait(held)\n"
        "    subprocess.run(['clusteractl', 'node', 'drain', 'alpha'], check=True, stdout=subprocess.DEVNULL)\n"
        "    print(sum(client.gather(held)) == sum(n * n for n in range(60)))\n"
        "    print(any(name.startswith('alpha') for name in client.run_on_scheduler(\n"
        "        lambda dask_scheduler: [worker.name for worker in dask_scheduler.workers.values()])))\n",
    )
    assert python(cluster, "/srv/kept.py").split() == ["True", "False"]
    cluster.until_state("alpha", "drained")
    assert "alpha" not in cluster.registered()


def test_an_undrained_node_works_again(cluster: Cluster) -> None:
    cluster.ctl("node", "undrain", "alpha")
    cluster.until_state("alpha", "ready")
    cluster.until_working("alpha")
