"""From a node's facts to its workers, and who does not fit the pool."""

from hypothesis import given
from hypothesis import strategies as st

from clusterai.v1.types_pb2 import (
    ENVIRONMENT_STATE_INCOMPATIBLE,
    ENVIRONMENT_STATE_READY,
    EnvironmentSpec,
    EnvironmentStatus,
    GpuFacts,
    NodeFacts,
    WorkerLimits,
)
from clusteraid.planner import judge, owner_of, plan_workers
from clusteraid.registry import Misfit

SPEC = EnvironmentSpec(environment_hash="abc", python_minor="3.11", versions={"dask": "2026.8.0", "numpy": "2.4.6"})
GIB = 1 << 30


def machine(**others: object) -> NodeFacts:
    return NodeFacts(**{"cpu_count": 8, "memory_total_bytes": 16 * GIB, "pythons": ["3.11"], **others})  # type: ignore[arg-type]


def test_a_machine_without_gpus_gets_one_worker_of_its_size() -> None:
    (worker,) = plan_workers("pi4", machine())
    assert worker.worker_name == "pi4-0"
    assert worker.thread_count == 8
    assert worker.memory_limit_bytes == 12 * GIB
    assert worker.cuda_visible_devices == ""
    assert not worker.resources


def test_each_gpu_gets_a_worker_that_sees_only_that_gpu() -> None:
    gpus = [GpuFacts(index=1, uuid="GPU-b"), GpuFacts(index=0, uuid="GPU-a")]
    workers = plan_workers("rig", machine(gpus=gpus))
    assert [worker.cuda_visible_devices for worker in workers] == ["GPU-a", "GPU-b"]
    assert [dict(worker.resources) for worker in workers] == [{"GPU": 1}, {"GPU": 1}]
    assert sum(worker.thread_count for worker in workers) == 8


def test_the_nodes_own_limits_come_first() -> None:
    limits = WorkerLimits(worker_count=2, thread_count=4, memory_limit_bytes=2 * GIB)
    workers = plan_workers("pi4", machine(worker_limits=limits))
    assert [(worker.thread_count, worker.memory_limit_bytes) for worker in workers] == [(2, GIB), (2, GIB)]
    assert plan_workers("pi4", machine(worker_limits=WorkerLimits(disabled=True))) == ()


@given(st.builds(
    NodeFacts, cpu_count=st.integers(0, 512), memory_total_bytes=st.integers(0, 1 << 42),
    gpus=st.lists(st.builds(GpuFacts, index=st.integers(0, 99)), max_size=99),
    worker_limits=st.builds(WorkerLimits, worker_count=st.integers(0, 1 << 20), thread_count=st.integers(0, 9999)),
))
def test_whatever_a_node_claims_its_workers_can_run(facts: NodeFacts) -> None:
    workers = plan_workers("n", facts)
    assert 1 <= len(workers) <= 64
    assert len({worker.worker_name for worker in workers}) == len(workers)
    assert all(worker.thread_count >= 1 and worker.memory_limit_bytes > 0 for worker in workers)


def test_another_python_is_incompatible_and_says_how_to_mend_it() -> None:
    misfit = judge(machine(pythons=["3.13"]), SPEC, EnvironmentStatus(), "main")
    assert misfit is not None
    assert misfit.reason == "pool main needs Python 3.11; the node has 3.13"
    assert "uv python install 3.11" in misfit.hint


def test_other_versions_are_incompatible_and_are_named() -> None:
    status = EnvironmentStatus(
        environment_hash="abc", state=ENVIRONMENT_STATE_READY, versions={"dask": "2024.1.0", "numpy": "2.4.6"}
    )
    misfit = judge(machine(), SPEC, status, "main")
    assert misfit is not None
    assert "dask 2024.1.0 (pool: 2026.8.0)" in misfit.reason
    assert "numpy" not in misfit.reason
    assert "env/abc" in misfit.hint


def test_a_node_that_cannot_build_the_environment_says_so_itself() -> None:
    status = EnvironmentStatus(
        environment_hash="abc", state=ENVIRONMENT_STATE_INCOMPATIBLE, reason="no venv module", hint="apt install it"
    )
    misfit = judge(machine(), SPEC, status, "main")
    assert misfit == Misfit("no venv module", "apt install it")


def test_what_an_older_environment_holds_does_not_matter() -> None:
    status = EnvironmentStatus(environment_hash="old", state=ENVIRONMENT_STATE_READY, versions={"dask": "1.0"})
    assert judge(machine(), SPEC, status, "main") is None


def test_a_worker_belongs_to_the_node_in_its_name() -> None:
    assert owner_of("my-big-rig-12") == "my-big-rig"
    assert owner_of("tcp://10.0.0.1:4000") == ""
    assert owner_of("loner") == ""
