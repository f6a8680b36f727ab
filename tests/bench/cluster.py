"""A whole cluster on the loopback interface: a real daemon, real agents, a scheduler and workers, mTLS everywhere."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from bench.processes import Place, Program
from bench.servers import Daemon
from clusterai.credentials import chain_pem, save_credentials
from clusterai.environment import IndexConfig, build
from clusterai.lockfile import EnvironmentKey, lock
from clusterai.pki import key_pem, new_csr, new_key
from clusterai.v1.node_admin_pb2 import ListNodesRequest, Node
from clusterai.v1.node_admin_pb2_grpc import NodeAdminServiceStub
from clusterai.v1.types_pb2 import WORKER_STATE_REGISTERED, WorkerStatus
from clusterai.v1.worker_pb2 import IssueDaskClientRequest, ListWorkersRequest
from clusterai.v1.worker_pb2_grpc import WorkerServiceStub
from support.tree import ROOT, python_path

Found = TypeVar("Found")
PYTHON_MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
_CACHE = ROOT / ".cache/environments"
_STEP_SECONDS, _END_SECONDS = 0.05, 10.0


def environment() -> tuple[str, Path]:
    """Return hash and directory of the compute environment, built once and kept for later runs."""
    text = lock()
    name = EnvironmentKey(PYTHON_MINOR, text).hash
    _CACHE.mkdir(parents=True, exist_ok=True)
    built = asyncio.run(build(_CACHE / name, text, Path("/usr/bin/python3"), index=IndexConfig(), progress=_quiet))
    return name, built.directory


def _quiet(_: float, __: str) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class DaskAccess:
    """What a Dask client needs: address, CA file, and a file with key and certificate."""

    scheduler: str
    ca: Path
    certificate: Path


class Cluster:
    """One daemon and any number of agents in one directory. Leaving the block ends schedulers and workers.

    They outlive whoever started them, as on real machines, so somebody has to.
    """

    def __init__(self, directory: Path, place: Place) -> None:
        self.directory, self._place = directory, place
        self.environment_hash, self.environment = environment()
        self.daemon = Daemon(directory, place, heartbeat_seconds=5.0)
        self._link(directory / "compute")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        units = self.units()
        for process_id in units:
            os.kill(process_id, signal.SIGKILL)
        wait_until(lambda: not any(map(self._is_ours, units)), _END_SECONDS)

    def units(self) -> list[int]:
        """Return the processes of scheduler and workers."""
        return [process_id for process_id in self._recorded() if self._is_ours(process_id)]

    def _recorded(self) -> Iterator[int]:
        for record in self.directory.rglob("units/*.json"):
            yield json.loads(record.read_text())["process_id"]

    def _is_ours(self, process_id: int) -> bool:
        """Tell whether the process runs and carries our directory in its command line."""
        try:
            return str(self.directory) in Path(f"/proc/{process_id}/cmdline").read_text()
        except OSError:
            return False

    def _link(self, compute: Path) -> None:
        (compute / "env").mkdir(parents=True)
        (compute / "env" / self.environment_hash).symlink_to(self.environment)

    def agent_config(self, name: str) -> Path:
        """Write an agent's configuration and directories; the environment is built already."""
        home = self.directory / name
        for part in ("state", "dask"):
            (home / part).mkdir(parents=True)
        self._link(home / "compute")
        config = home / "agent.toml"
        config.write_text(f"""
[server]
addresses = ["{self.daemon.address}"]
discover = false
[node]
name = "{name}"
[state]
directory = "{home}/state"
compute_directory = "{home}/compute"
scratch_directory = "{home}/dask"
[units]
back_end = "process"
[worker]
count = 1
threads = 1
memory_fraction = 0.1
contact_address = "127.0.0.1"
""")
        return config

    def join(self, name: str) -> Path:
        """Join a node with a fresh token; return its configuration."""
        config, token = self.agent_config(name), self.directory / name / "token"
        token.write_text(str(self.daemon.token(1)))
        command = [sys.executable, "-P", "-m", "clusterai_agent", "--config", str(config), "join"]
        command += ["--server", self.daemon.enrollment_address, "--token-file", str(token)]
        subprocess.run(command, cwd=ROOT, env=python_path(), check=True, timeout=60, stdout=subprocess.DEVNULL)
        return config

    def agent(self, name: str, config: Path) -> Program:
        """Return the agent's program, to be entered."""
        log = self.directory / name / "agent.log"
        return Program("clusterai_agent", "--config", config, "run", place=self._place, log=log)

    def nodes(self) -> dict[str, Node]:
        """Return the nodes as operators see them."""
        answer = self.daemon.call(NodeAdminServiceStub, "ListNodes", ListNodesRequest())
        return {node.node_id: node for node in answer.nodes}

    def workers(self) -> dict[str, WorkerStatus]:
        """Return the workers as operators see them."""
        answer = self.daemon.call(WorkerServiceStub, "ListWorkers", ListWorkersRequest())
        return {worker.worker_name: worker for worker in answer.workers}

    def wait_registered(self, count: int, seconds: float = 60.0) -> None:
        """Wait until that many workers are registered at the scheduler."""
        wait_until(lambda: self.registered() >= count, seconds, self.state)

    def registered(self) -> int:
        """Return how many workers the scheduler knows."""
        return sum(worker.state == WORKER_STATE_REGISTERED for worker in self.workers().values())

    def state(self) -> str:
        """Return what a person would look at when it does not work."""
        logs = [path.read_text()[-1500:] for path in sorted(self.directory.rglob("*.log"))]
        return "\n".join([str(self.nodes()), str(self.workers()), *logs])

    def dask_access(self) -> DaskAccess:
        """Ask for a client certificate, as `clusteractl dask env` does."""
        key = new_key()
        answer = self.daemon.call(WorkerServiceStub, "IssueDaskClient", IssueDaskClientRequest(csr_der=new_csr(key)))
        ca, certificate = self.directory / "client-ca.pem", self.directory / "client.pem"
        ca.write_bytes(answer.ca_bundle_pem)
        save_credentials(certificate, key_pem(key), chain_pem(answer.certificate_chain_der))
        port = answer.scheduler_address.rpartition(":")[2]
        return DaskAccess(f"tls://127.0.0.1:{port}", ca, certificate)


def wait_until(condition: Callable[[], Found], seconds: float, say: Callable[[], str] = str) -> Found:
    """Return the condition's value once it is true; raise when it is not within the time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:.0f} s\n{say()}")
        time.sleep(_STEP_SECONDS)
    return found


@contextmanager
def running_cluster(directory: Path, place: Place, names: tuple[str, ...]) -> Iterator[Cluster]:
    """Run a cluster whose nodes have registered workers."""
    with Cluster(directory, place) as cluster, cluster.daemon.running(), ExitStack() as agents:
        for name in names:
            agents.enter_context(cluster.agent(name, cluster.join(name)))
        cluster.wait_registered(len(names))
        yield cluster


class DaskClient(Program):
    """The measuring client, in the compute environment."""

    def __init__(self, environment: Path, access: DaskAccess, place: Place) -> None:
        inside = Place(environment / "bin/python", place.cpus)
        super().__init__("load.dask_client", access.scheduler, access.ca, access.certificate, place=inside)

    def connect(self) -> None:
        """Wait until the connection stands."""
        self.read_line()

    def call(self, *words: object) -> Any:
        """Send a command and return its answer."""
        return json.loads(self.ask(" ".join(map(str, words))))
