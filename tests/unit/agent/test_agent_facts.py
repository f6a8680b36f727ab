"""Facts about this machine and recorded others."""

from clusterai.machine import hashed_machine_id
from clusterai_agent.collectors.api import NoData
from clusterai_agent.config import AgentConfig, WorkerSection
from clusterai_agent.facts import cpu_model, ordered, read_facts, refresh, worker_limits
from clusterai_agent.nvml import Nvml

PI = "processor\t: 0\nCPU part\t: 0xd08\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
EPYC = "processor\t: 0\nmodel name\t: AMD EPYC 7763\nmodel\t: 1\n\nprocessor\t: 1\nmodel name\t: AMD EPYC 7763\n"


def nothing() -> None:
    raise NoData("no module")


def test_facts_of_this_machine_are_complete() -> None:
    facts = read_facts(AgentConfig(), Nvml(nothing), lambda: ("3.11", "3.13"))
    assert facts.hostname
    assert facts.cpu_count >= 1
    assert facts.memory_total_bytes > 1 << 28
    assert facts.disk_total_bytes > 0
    assert facts.agent_python.startswith("3.")
    assert list(facts.pythons) == ["3.11", "3.13"]
    assert facts.worker_limits.memory_limit_bytes == int(facts.memory_total_bytes * 0.6)
    assert refresh(facts).clock_unix_seconds >= facts.clock_unix_seconds


def test_the_machine_id_never_leaves_the_machine() -> None:
    assert hashed_machine_id("") == ""
    hashed = hashed_machine_id("0123456789abcdef0123456789abcdef")
    assert len(hashed) == 64
    assert "0123456789abcdef" not in hashed


def test_the_processor_is_named_on_intel_and_arm() -> None:
    assert cpu_model(EPYC) == "AMD EPYC 7763"
    assert cpu_model(PI) == "Raspberry Pi 4 Model B Rev 1.4"
    assert cpu_model("")


def test_addresses_are_ordered_by_use_and_those_of_no_use_left_out() -> None:
    found = ordered(["127.0.0.1", "fe80::1%eth0", "192.168.1.5", "8.8.8.8", "fd00::5", "junk", "192.168.1.5", "::1"])
    assert found == ["8.8.8.8", "192.168.1.5", "fd00::5"]


def test_switched_off_workers_are_said_so() -> None:
    limits = worker_limits(WorkerSection(enabled=False, count=3, threads=4, memory_fraction=0.5), 1000)
    assert (limits.disabled, limits.worker_count, limits.thread_count, limits.memory_limit_bytes) == (True, 3, 4, 500)
