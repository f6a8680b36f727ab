"""What is shown of a worker: the agent's word and the scheduler's, as one."""

import time

import pytest

from clusterai.v1.types_pb2 import (
    WORKER_STATE_FAILED,
    WORKER_STATE_HELD,
    WORKER_STATE_REGISTERED,
    WORKER_STATE_RUNNING,
    WorkerState,
    WorkerStatus,
)
from clusteraid.dask_control import Registered
from clusteraid.views import merged


def reported(seconds_ago: float, clock_skew: float = 0.0) -> WorkerStatus:
    since = time.time() + clock_skew - seconds_ago
    return WorkerStatus(worker_name="pi-0", state=WORKER_STATE_RUNNING, since_unix_seconds=since)


@pytest.mark.parametrize("clock_skew", [0.0, 86400.0, -86400.0])
@pytest.mark.parametrize(("age", "state"), [(5, WORKER_STATE_RUNNING), (25, WORKER_STATE_FAILED)])
def test_a_worker_that_runs_and_does_not_register_has_failed_by_the_nodes_own_clock(
    clock_skew: float, age: float, state: WorkerState
) -> None:
    shown = merged("pi", reported(age, clock_skew), {}, time.time() + clock_skew, held=False)
    assert shown.state == state
    assert ("clusterai-worker@pi-0" in shown.reason) == (state == WORKER_STATE_FAILED)


@pytest.mark.parametrize(("held", "state"), [(False, WORKER_STATE_REGISTERED), (True, WORKER_STATE_HELD)])
def test_a_registered_worker_shows_what_the_scheduler_knows(held: bool, state: WorkerState) -> None:
    known = Registered("pi-0", "tls://10.0.0.2:4", 4, 1 << 30, 3, 99, "running")
    shown = merged("pi", reported(500), {"pi-0": known}, time.time(), held=held)
    assert (shown.state, shown.reason, shown.node_id) == (state, "", "pi")
    assert (shown.thread_count, shown.running_task_count, shown.stored_bytes) == (4, 3, 99)
