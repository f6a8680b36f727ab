"""Messages as a real cluster would send them, and ones with the longest and worst text that the wire allows."""

from clusterai.v1.cluster_pb2 import (
    CHECK_OUTCOME_FAILED,
    CHECK_OUTCOME_NOT_APPLICABLE,
    CHECK_OUTCOME_OK,
    CheckResult,
    GetStatusResponse,
    PoolStatus,
)
from clusterai.v1.event_pb2 import Event
from clusterai.v1.node_admin_pb2 import (
    NODE_STATE_INCOMPATIBLE,
    NODE_STATE_PENDING,
    NODE_STATE_READY,
    Node,
)
from clusterai.v1.operator_pb2 import Operator
from clusterai.v1.token_pb2 import ROLE_ADMIN, ROLE_NODE, Token
from clusterai.v1.types_pb2 import (
    ENVIRONMENT_STATE_READY,
    WORKER_STATE_FAILED,
    WORKER_STATE_REGISTERED,
    BatterySample,
    CollectorReport,
    EnvironmentSpec,
    EnvironmentStatus,
    GpuFacts,
    GpuSample,
    LogLine,
    NodeFacts,
    Sample,
    TemperatureSample,
    WorkerStatus,
)
from clusterai.v1.unit_pb2 import Unit

NOW = 1_795_485_600.0  # 2026-11-24 02:00:00 UTC
GIB = 1 << 30
LONG = "a" * 63
VERSIONS = {"dask": "2026.8.0", "distributed": "2026.8.0", "numpy": "2.4.6", "cloudpickle": "3.1.2", "msgpack": "1.2.4"}


def environment() -> EnvironmentSpec:
    """The environment of the pool main."""
    return EnvironmentSpec(environment_hash="9f86d081884c7d65", python_minor="3.11", versions=VERSIONS)


def tower() -> Node:
    """A workstation with a GPU that works."""
    return Node(
        node_id="tower",
        state=NODE_STATE_READY,
        facts=NodeFacts(
            hostname="tower",
            os_name="Debian GNU/Linux 12 (bookworm)",
            kernel_release="6.1.0-41-amd64",
            architecture="x86_64",
            cpu_model="AMD Ryzen 9 7950X 16-Core Processor",
            cpu_count=32,
            memory_total_bytes=64 * GIB,
            disk_total_bytes=1800 * GIB,
            gpus=[GpuFacts(name="NVIDIA GeForce RTX 4090", memory_total_bytes=24 * GIB, driver_version="550.163")],
            agent_version="0.1.0",
            agent_python="3.11.2",
            pythons=["3.11"],
        ),
        sample=Sample(
            taken_unix_seconds=NOW - 2,
            cpu_busy_ratio=[0.5, 0.25],
            load_1min=3.14,
            memory_available_bytes=40 * GIB,
            temperatures=[TemperatureSample(sensor="k10temp", celsius=61.5)],
            gpus=[GpuSample(index=0, busy_ratio=0.8, memory_used_bytes=6 * GIB)],
            collectors=[CollectorReport(collector="network", reason="permission denied")],
        ),
        environment=EnvironmentStatus(state=ENVIRONMENT_STATE_READY, versions=VERSIONS),
        workers=[worker("tower", WORKER_STATE_REGISTERED)],
        last_heard_unix_seconds=NOW - 2,
        since_unix_seconds=NOW - 7200,
        address="192.0.2.11:40122",
        certificate_expires_unix_seconds=NOW + 6 * 86400,
        pool_name="main",
    )


def phone() -> Node:
    """A node whose Python is not the pool's."""
    return Node(
        node_id="phone",
        state=NODE_STATE_INCOMPATIBLE,
        reason="the pool main runs Python 3.11, this node has only 3.13",
        hint="uv python install 3.11, on the node",
        facts=NodeFacts(cpu_count=8, memory_total_bytes=8 * GIB, has_battery=True),
        sample=Sample(taken_unix_seconds=NOW - 4, load_1min=0.2, battery=BatterySample(charge_ratio=0.81)),
        last_heard_unix_seconds=NOW - 4,
        pool_name="main",
    )


def stranger() -> Node:
    """A node that asks to join."""
    return Node(node_id="pi4", state=NODE_STATE_PENDING, approval_code="K7M-Q2X", last_heard_unix_seconds=NOW - 40)


def worst_node() -> Node:
    """A node with the longest names, and text that would drive a terminal."""
    bad = "\x1b[2J\x07" + "long reason with a colour \x1b[31m and a line\nbreak " * 12
    return Node(
        node_id=LONG,
        state=NODE_STATE_INCOMPATIBLE,
        reason=bad,
        hint=bad,
        facts=NodeFacts(
            cpu_count=1024,
            memory_total_bytes=1023 * GIB,
            gpus=[GpuFacts(name="NVIDIA RTX PRO 6000 Blackwell Server Edition 日本語") for _ in range(8)],
            cpu_model=bad,
            os_name=bad,
        ),
        sample=Sample(taken_unix_seconds=NOW, load_1min=1023.9),
        workers=[worker(LONG, WORKER_STATE_FAILED, reason=bad) for _ in range(8)],
        last_heard_unix_seconds=NOW - 400 * 86400,
        address="[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535",
        pool_name=LONG,
    )


def worker(node_id: str, state: int, reason: str = "") -> WorkerStatus:
    """A worker of the node."""
    return WorkerStatus(
        worker_name=f"{node_id}-0",
        node_id=node_id,
        state=state,  # type: ignore[arg-type]
        reason=reason,
        thread_count=32,
        memory_limit_bytes=38 * GIB,
        running_task_count=12,
        stored_bytes=900 << 20,
    )


def status() -> GetStatusResponse:
    """A cluster with one pool and a problem."""
    return GetStatusResponse(
        cluster_id="c-5f1e0a77",
        server_version="0.1.0",
        started_unix_seconds=NOW - 3 * 86400 - 50,
        node_counts={"ready": 3, "incompatible": 1, "offline": 0},
        pools=[
            PoolStatus(
                pool_name="main",
                scheduler_unit="clusterai-scheduler@main.service",
                scheduler_state="running",
                scheduler_address="tls://tower:8786",
                dashboard_address="http://127.0.0.1:8787/",
                worker_count=3,
                thread_count=40,
                memory_limit_bytes=62 * GIB,
                environment=environment(),
            )
        ],
        server_addresses=["tower:7443"],
        problems=["the configuration was rejected at reload: clusteraid.toml: [server] port: 99999 is not a port"],
        configuration_file="/etc/clusterai/clusteraid.toml",
        ca_fingerprint="ab" * 32,
    )


def tokens() -> list[Token]:
    """A usable token, an expired, a used and a revoked one, with the longest names."""
    return [
        Token(token_id="k3v7q2xa", role=ROLE_NODE, expires_unix_seconds=NOW + 720, use_limit=1, created_by="local"),
        Token(
            token_id="aaaaaaaa",
            role=ROLE_ADMIN,
            bound_name=LONG,
            expires_unix_seconds=NOW - 9,
            use_limit=10000,
            created_by=LONG,
        ),
        Token(
            token_id="bbbbbbbb",
            role=ROLE_NODE,
            expires_unix_seconds=NOW + 9,
            use_limit=1,
            use_count=1,
            created_by="ann",
        ),
        Token(
            token_id="cccccccc",
            role=ROLE_NODE,
            expires_unix_seconds=NOW + 9,
            use_limit=1,
            revoked=True,
            created_by="ann",
        ),
    ]


def operators() -> list[Operator]:
    """Two people."""
    return [
        Operator(
            name="ann", role=ROLE_ADMIN, certificate_expires_unix_seconds=NOW + 5 * 86400, created_unix_seconds=NOW - 60
        ),
        Operator(
            name=LONG, role=ROLE_ADMIN, certificate_expires_unix_seconds=NOW - 86400, created_unix_seconds=NOW - 9e6
        ),
    ]


def units() -> list[Unit]:
    """The scheduler's unit, one that failed, one that is not installed."""
    return [
        Unit(
            unit="clusterai-scheduler@main.service",
            active_state="active",
            sub_state="running",
            main_process_id=4194304,
            restart_count=3,
            result="success",
            since_unix_seconds=NOW - 7200,
            installed=True,
        ),
        Unit(
            unit=f"clusterai-scheduler@{LONG}.service",
            active_state="deactivating",
            sub_state="stop-sigterm",
            main_process_id=4194304,
            restart_count=100000,
            since_unix_seconds=NOW - 1e8,
            installed=True,
        ),
        Unit(unit="ollama.service"),
    ]


def checks() -> list[CheckResult]:
    """One of each outcome, with long text."""
    return [
        CheckResult(check="units", outcome=CHECK_OUTCOME_OK, message="clusterai-scheduler@main.service is active"),
        CheckResult(
            check="polkit",
            outcome=CHECK_OUTCOME_FAILED,
            message="polkit refuses clusterai the right to restart clusterai-scheduler@main.service, and " * 3,
            fix="sudo apt install polkitd\nsudo apt install --reinstall clusteraid",
        ),
        CheckResult(check="multicast", outcome=CHECK_OUTCOME_NOT_APPLICABLE, message="announcing is off"),
    ]


def events() -> list[Event]:
    """Two events."""
    return [
        Event(sequence=41, time_unix_seconds=NOW - 60, kind="node-joined", subject="tower", message="tower joined"),
        Event(sequence=42, time_unix_seconds=NOW, kind="node-ready", subject="tower", message="tower is ready"),
    ]


def log_lines() -> list[LogLine]:
    """Lines of the server and of a node."""
    return [
        LogLine(time_unix_seconds=NOW, unit="clusteraid.service", priority=6, message="3 nodes"),
        LogLine(
            time_unix_seconds=NOW, node_id="pi4", unit="clusterai-agent.service", priority=3, message="no \x1b[31mdisk"
        ),
    ]
