"""From a spec to what shall run: pure."""

from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import EnvironmentSpec, PoolSpec, WorkerSpec
from clusterai_agent.supervisor.desired import (
    DesiredEnvironment,
    Limits,
    contact_host,
    decide,
    host_and_port,
    scheduler_at,
)

GIB = 1 << 30
LIMITS = Limits(enabled=True, threads=0, cpu_count=8, memory_limit_bytes=10 * GIB)


def spec(
    *workers: WorkerSpec, scheduler: str = "tls://tower:8786", minor: str = "3.11", digest: str = "ab" * 8
) -> NodeSpec:
    environment = EnvironmentSpec(environment_hash=digest, python_minor=minor)
    pool = PoolSpec(pool_name="main", scheduler_address=scheduler, environment=environment)
    return NodeSpec(generation=4, pool=pool, workers=workers, build_environment=True)


def worker(name: str = "n-0", threads: int = 4, memory: int = GIB) -> WorkerSpec:
    return WorkerSpec(worker_name=name, thread_count=threads, memory_limit_bytes=memory)


def test_a_spec_is_taken_as_it_is_within_the_limits() -> None:
    desired = decide(spec(worker()), LIMITS)
    assert desired.problem == ""
    assert [(w.name, w.thread_count, w.memory_limit_bytes) for w in desired.workers] == [("n-0", 4, GIB)]
    assert desired.environment is not None
    assert desired.environment.build


def test_agent_toml_has_the_last_word_on_threads_and_memory() -> None:
    tight = Limits(enabled=True, threads=2, cpu_count=8, memory_limit_bytes=2 * GIB)
    desired = decide(spec(worker("n-0", 16, 8 * GIB), worker("n-1", 0, 0)), tight)
    assert [(w.thread_count, w.memory_limit_bytes) for w in desired.workers] == [(2, GIB), (2, GIB)]


def test_without_numbers_the_machine_is_divided() -> None:
    desired = decide(spec(worker("n-0", 0, 0), worker("n-1", 0, 0)), LIMITS)
    assert [(w.thread_count, w.memory_limit_bytes) for w in desired.workers] == [(4, 5 * GIB), (4, 5 * GIB)]


def test_switched_off_workers_do_not_run_and_say_why() -> None:
    desired = decide(spec(worker()), Limits(False, 0, 8, GIB))
    assert desired.workers == ()
    assert "switched off" in desired.reason


def test_no_pool_means_no_workers_with_the_servers_reason() -> None:
    desired = decide(NodeSpec(generation=9, reason="incompatible: no Python 3.11"), LIMITS)
    assert (desired.generation, desired.workers, desired.environment) == (9, (), None)
    assert desired.reason == "incompatible: no Python 3.11"


def test_what_schedulers_here_run_in_is_built_whatever_the_node_itself_does() -> None:
    bad = [EnvironmentSpec(environment_hash="../x", python_minor="3.14"), EnvironmentSpec(environment_hash="cd" * 8)]
    good = EnvironmentSpec(environment_hash="cd" * 8, python_minor="3.14")
    for told in (spec(worker()), NodeSpec(generation=9, reason="incompatible"), spec(worker("../../etc/passwd"))):
        told.further_environments.extend([*bad, good])
        assert decide(told, LIMITS).further == (DesiredEnvironment("cd" * 8, "3.14", build=True),)
    crowded = NodeSpec(further_environments=[good] * 100)
    assert len(decide(crowded, LIMITS).further) <= 4


def test_what_makes_no_sense_is_a_problem_and_runs_nothing() -> None:
    bad = [
        spec(worker("../../etc/passwd")),
        spec(worker("n-0"), worker("n-0")),
        spec(worker("N 0")),
        spec(worker(), scheduler="http://tower:8786"),
        spec(worker(), scheduler="tls://tower:8786 --preload x"),
        spec(worker(), digest="../env"),
        spec(worker(), minor="3.11; rm"),
    ]
    for one in bad:
        desired = decide(one, LIMITS)
        assert desired.problem
        assert desired.workers == ()


def test_a_scheduler_without_a_host_is_where_the_daemon_is() -> None:
    assert scheduler_at("tls://:8786", "192.0.2.1") == "tls://192.0.2.1:8786"
    assert scheduler_at("tls://:8786", "2001:db8::1") == "tls://[2001:db8::1]:8786"
    assert scheduler_at("tls://tower:8786", "192.0.2.1") == "tls://tower:8786"
    assert host_and_port("tls://[2001:db8::1]:8786") == ("2001:db8::1", 8786)


def test_the_contact_address_is_one_that_others_can_reach() -> None:
    own = ("192.0.2.5", "10.0.0.5")

    def contact(towards: str, *, local: bool = False, running: str = "", configured: str = "") -> str:
        return contact_host(
            configured=configured, towards_server=towards, server_is_local=local, own=own, running=running
        )

    assert contact("10.0.0.5") == "10.0.0.5"
    assert contact("127.0.0.1") == "192.0.2.5"
    assert contact("127.0.0.1", local=True) == "127.0.0.1"
    assert contact("10.0.0.5", running="192.0.2.5") == "192.0.2.5"
    assert contact("10.0.0.5", running="198.51.100.1") == "10.0.0.5"
    assert contact("10.0.0.5", configured="203.0.113.1") == "203.0.113.1"
