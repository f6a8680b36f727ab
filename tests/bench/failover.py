"""How fast the cluster takes notice: joining, broken streams, silence, and the daemon's sudden death."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench.cluster import Cluster, DaskClient, running_cluster, wait_until
from bench.measure import Figure, median
from bench.processes import Place
from clusterai.v1.node_admin_pb2 import NODE_STATE_OFFLINE, NODE_STATE_READY

ROUNDS, HELD_SECONDS, HELD_TASKS = 3, 20, 2
_NAMES = ("one", "two")


def measure() -> Iterator[Figure]:
    """Yield all of them, each the median of some rounds."""
    yield Figure("join to registered worker", median([_join() for _ in range(ROUNDS)]), "s", 10)
    breaks, silences, deaths = [], [], []
    for _ in range(ROUNDS):
        breaks.append(_broken_stream())
        silences.append(_silence())
        deaths.append(_killed_daemon())
    yield Figure("stream broken, last new task began after", median(breaks), "s", 1)
    yield Figure("silent node is offline after", median(silences), "s", 12)
    yield Figure("killed daemon is back, all nodes ready after", median([ready for ready, _ in deaths]), "s", 5)
    unharmed = sum(tasks for _, tasks in deaths)
    detail = f"of {ROUNDS * HELD_TASKS}, in the same process, run once"
    wanted = ROUNDS * HELD_TASKS
    yield Figure("running tasks that the death left alone", unharmed, "tasks", wanted, at_least=True, detail=detail)


def _join() -> float:
    """Return the time from the token in hand to a registered worker, the environment being built."""
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name, ExitStack() as stack:
        cluster = stack.enter_context(Cluster(Path(name), Place()))
        stack.enter_context(cluster.daemon.running())
        begun = time.monotonic()
        stack.enter_context(cluster.agent("one", cluster.join("one")))
        cluster.wait_registered(1)
        return time.monotonic() - begun


def _broken_stream() -> float:
    """Kill an agent under a stream of tasks; return when its worker, which goes on, began its last one."""
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name, ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(Path(name), Place(), _NAMES[:1]))
        other = cluster.agent(_NAMES[1], cluster.join(_NAMES[1]))
        stack.enter_context(other)
        cluster.wait_registered(2)
        access = cluster.dask_access()
        with DaskClient(cluster.environment, access, Place()) as client:
            client.connect()
            client.call("stream")
            time.sleep(3)
            address = next(w.dask_address for w in cluster.workers().values() if w.node_id == _NAMES[1])
            broken = time.time()
            os.kill(other.process_id, signal.SIGKILL)
            time.sleep(4)
            last: float = client.call("streamed")[address]
            return max(last - broken, 0.0)


def _silence() -> float:
    """Stop an agent in its tracks; return when the daemon calls it offline."""
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name, ExitStack() as stack:
        cluster = stack.enter_context(Cluster(Path(name), Place()))
        stack.enter_context(cluster.daemon.running())
        agent = stack.enter_context(cluster.agent("one", cluster.join("one")))
        cluster.wait_registered(1)
        os.kill(agent.process_id, signal.SIGSTOP)
        stack.callback(os.kill, agent.process_id, signal.SIGCONT)
        begun = time.monotonic()
        wait_until(lambda: cluster.nodes()["one"].state == NODE_STATE_OFFLINE, 30, cluster.state)
        return time.monotonic() - begun


def _killed_daemon() -> tuple[float, int]:
    """Kill the daemon under running tasks; return when all was ready again and how many tasks were left alone."""
    with tempfile.TemporaryDirectory(prefix="cai-bench-") as name, ExitStack() as stack:
        cluster = stack.enter_context(Cluster(Path(name), Place()))
        daemon = stack.enter_context(cluster.daemon.running())
        for node in _NAMES:
            stack.enter_context(cluster.agent(node, cluster.join(node)))
        cluster.wait_registered(2)
        client = stack.enter_context(DaskClient(cluster.environment, cluster.dask_access(), Place()))
        client.connect()
        marks = Path(name) / "marks"
        marks.mkdir()
        client.call("hold", HELD_SECONDS, HELD_TASKS, marks)
        wait_until(lambda: len(list(marks.iterdir())) == HELD_TASKS, 30, cluster.state)
        daemon.kill()
        time.sleep(2)
        stack.enter_context(cluster.daemon.running())
        begun = time.monotonic()
        wait_until(lambda: _all_ready(cluster), 60, cluster.state)
        back = time.monotonic() - begun
        ran = client.call("held")
        return back, sum(times == 1 for _, times in ran)


def _all_ready(cluster: Cluster) -> bool:
    nodes = cluster.nodes().values()
    everybody = len(nodes) == len(_NAMES) == cluster.registered()
    return everybody and all(node.state == NODE_STATE_READY for node in nodes)
