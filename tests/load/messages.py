"""What a middle-sized machine would send: eight cores, six sensors, one GPU; a heartbeat of about 350 bytes."""

import time

from clusterai.v1.node_pb2 import Heartbeat, Hello, SessionRequest
from clusterai.v1.types_pb2 import (
    CollectorReport,
    GpuFacts,
    GpuSample,
    NodeFacts,
    Sample,
    TemperatureSample,
)

_CORES = 8
_SENSORS = ("coretemp/Package id 0", "coretemp/Core 0", "coretemp/Core 1", "nvme/Composite", "acpitz", "iwlwifi_1")


def facts(name: str) -> NodeFacts:
    """Return facts that let the node into the default pool of a server with the same Python."""
    return NodeFacts(
        hostname=name,
        machine_id=name.rjust(64, "0"),
        boot_id=f"boot-{name}",
        os_name="Debian GNU/Linux 12 (bookworm)",
        kernel_release="6.1.0-18-amd64",
        architecture="x86_64",
        cpu_model="a simulated processor",
        cpu_count=_CORES,
        memory_total_bytes=16 << 30,
        disk_total_bytes=256 << 30,
        gpus=[GpuFacts(index=0, uuid=f"GPU-{name}", name="a simulated GPU", memory_total_bytes=8 << 30)],
        agent_version="0.1.0",
        agent_python="3.11.2",
        pythons=["3.11"],
        addresses=["192.0.2.1"],
        clock_unix_seconds=time.time(),
    )


def hello(name: str, nonce: str) -> SessionRequest:
    """Return the first message of a session."""
    return SessionRequest(hello=Hello(facts=facts(name), session_nonce=nonce))


def heartbeat(sequence: int) -> SessionRequest:
    """Return a heartbeat whose numbers change from one to the next."""
    wave = (sequence % 97) / 97
    sample = Sample(
        taken_unix_seconds=time.time(),
        cpu_busy_ratio=[wave] * _CORES,
        load_1min=wave * _CORES,
        memory_available_bytes=(8 << 30) + sequence,
        disk_free_bytes=(128 << 30) - sequence,
        network_received_bytes_per_second=12345 + sequence,
        network_sent_bytes_per_second=54321 + sequence,
        temperatures=[TemperatureSample(sensor=sensor, celsius=40 + wave) for sensor in _SENSORS],
        gpus=[GpuSample(index=0, busy_ratio=wave, memory_used_bytes=1 << 30, temperature_celsius=50, power_watts=90)],
        collectors=[CollectorReport(collector="battery", no_data=True, reason="this machine has no battery")],
    )
    return SessionRequest(heartbeat=Heartbeat(sequence=sequence, sample=sample))
