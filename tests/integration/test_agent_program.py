"""The agent as a program, with real worker processes of the process back-end, against a real gRPC server."""

import asyncio
import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from clusterai.v1.node_pb2 import Farewell, LogRequest, NodeSpec
from clusterai.v1.types_pb2 import (
    ENVIRONMENT_STATE_FAILED,
    ENVIRONMENT_STATE_INCOMPATIBLE,
    WORKER_STATE_RUNNING,
    EnvironmentStatus,
    NodeFacts,
    WorkerSpec,
    WorkerStatus,
)
from clusterai_agent.home import Home
from support.agent_program import agent, command, said, variables
from support.node_daemon import NodeDaemon, agent_toml
from support.waiting import until

GIB = 1 << 30
WORKER = """#!/usr/bin/python3 -I
import sys, time
print("a worker begins", *sys.argv[1:], flush=True)
time.sleep(600)
"""


def pretend_environment(directory: Path, daemon: NodeDaemon) -> None:
    """Put a finished environment in place whose Python only sleeps: what Dask does is tested elsewhere."""
    environment = directory / "compute/env" / daemon.environment_hash
    (environment / "bin").mkdir(parents=True, exist_ok=True)
    python = environment / "bin/python"
    python.write_text(WORKER)
    python.chmod(0o755)
    (environment / ".complete").write_text(json.dumps({"versions": {"dask": "1", "python": "3.11"}, "python": "3.11"}))


def worker(index: int = 0, threads: int = 1) -> WorkerSpec:
    return WorkerSpec(worker_name=f"n-{index}", thread_count=threads, memory_limit_bytes=GIB)


def seen(daemon: NodeDaemon) -> dict[str, WorkerStatus]:
    """The newest status of each worker."""
    if not daemon.streams:
        return {}
    statuses = [daemon.last.hello.status, *daemon.last.statuses]
    return {status.worker_name: status for status in statuses[-1].workers}


def running(daemon: NodeDaemon, name: str = "n-0") -> int:
    """The process id of a worker that runs, else 0."""
    status = seen(daemon).get(name)
    return status.process_id if status and status.state == WORKER_STATE_RUNNING else 0


def environments(daemon: NodeDaemon, state: int) -> list[EnvironmentStatus]:
    """What was said of the environment while it was in this state."""
    return [status.environment for status in daemon.last.statuses if status.environment.state == state]


async def stop_workers(daemon: NodeDaemon) -> None:
    """Leave nothing behind."""
    daemon.spec = NodeSpec(generation=99, reason="the test ends")
    daemon.last.send(spec=daemon.spec)
    await until(lambda: not seen(daemon))


async def test_the_hello_tells_facts_and_the_commands_show_the_agent(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        config = agent_toml(tmp_path, daemon.address)
        code, _, errors = await said(config, "status")
        assert code == 1
        assert "the agent does not run on this machine\n  start it with `systemctl start clusterai-agent`" in errors
        async with agent(config):
            await until(lambda: daemon.streams and daemon.last.heartbeats)
            facts: NodeFacts = daemon.last.hello.facts
            assert facts.cpu_count >= 1
            assert "3.11" in facts.pythons or facts.pythons
            code, output, _ = await said(config, "status", "--json")
            shown = json.loads(output)
            assert (code, shown["state"], shown["node_id"], shown["server"]) == (0, "connected", "n", daemon.address)
            assert "n: ready: 0 workers running" in (await said(config, "status"))[1]
        assert (await said(config, "status"))[0] == 1
        code, output, _ = await said(config, "facts", "--json")
        assert json.loads(output)["facts"]["memory_total_bytes"] == facts.memory_total_bytes
        assert "cpu_busy_ratio" in json.loads(output)["sample"]


async def test_a_worker_is_started_changed_and_stopped_as_the_spec_says(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        pretend_environment(tmp_path, daemon)
        daemon.want(worker(0), worker(1), generation=2, scheduler="tls://:8786")
        async with agent(agent_toml(tmp_path, daemon.address)):
            await until(lambda: running(daemon, "n-0") and running(daemon, "n-1"))
            launch = json.loads((tmp_path / "compute/workers/n-0.json").read_text())
            assert launch["scheduler_address"] == "tls://127.0.0.1:8786"
            assert launch["contact_address"] == "127.0.0.1"
            certificate = tmp_path / "compute/tls/dask.pem"
            assert stat.S_IMODE(certificate.stat().st_mode) == 0o640
            first, second = running(daemon, "n-0"), running(daemon, "n-1")
            daemon.want(worker(0), worker(1, threads=2), generation=3, scheduler="tls://:8786")
            await until(lambda: running(daemon, "n-1") not in (0, second))
            assert running(daemon, "n-0") == first, "only what changed is restarted"
            daemon.want(worker(0), generation=4, scheduler="tls://:8786")
            await until(lambda: "n-1" not in seen(daemon))
            assert running(daemon, "n-0") == first
            assert not (tmp_path / "compute/workers/n-1.json").exists()
            await stop_workers(daemon)


async def test_workers_survive_kill_9_of_the_agent_and_are_adopted(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        pretend_environment(tmp_path, daemon)
        daemon.want(worker(), generation=2)
        config = agent_toml(tmp_path, daemon.address)
        async with agent(config) as first:
            await until(lambda: running(daemon))
            process_id = running(daemon)
            await first.kill()
        os.kill(process_id, 0)
        async with agent(config):
            await until(lambda: len(daemon.streams) == 2)
            hello = daemon.last.hello.status.workers
            assert [(status.worker_name, status.process_id) for status in hello] == [("n-0", process_id)]
            await asyncio.sleep(1)
            assert running(daemon) == process_id, "an unchanged worker is not restarted"
            await stop_workers(daemon)


async def test_a_stale_worker_of_an_older_spec_is_stopped(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        pretend_environment(tmp_path, daemon)
        daemon.want(worker(), generation=2)
        config = agent_toml(tmp_path, daemon.address)
        async with agent(config) as first:
            await until(lambda: running(daemon))
            await first.kill()
        daemon.want(worker(1), generation=3)
        async with agent(config):
            await until(lambda: running(daemon, "n-1") and "n-0" not in seen(daemon))
            await stop_workers(daemon)


async def test_workers_are_left_alone_while_the_server_is_away(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        pretend_environment(tmp_path, daemon)
        daemon.want(worker(), generation=2)
        config = agent_toml(tmp_path, daemon.address)
        async with agent(config) as program:
            await until(lambda: running(daemon))
            process_id = running(daemon)
            await daemon.stop()
            await until(lambda: '"unreachable"' in (tmp_path / "agent/agent-status.json").read_text())
            assert "server unreachable since" in (await said(config, "status"))[1]
            os.kill(process_id, 0)
            await program.kill()
        async with agent(config):
            await asyncio.sleep(1)
            os.kill(process_id, 0)
            await daemon.start()
            await until(lambda: running(daemon) == process_id)
            await stop_workers(daemon)


async def test_a_failed_build_is_shown_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        daemon.lock_text = "nothing-such==1.0 --hash=sha256:" + "0" * 64 + "\n"
        daemon.python_minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
        daemon.want(worker(), generation=2)
        wheels = f'[environment]\nwheel_directory = "{tmp_path}/wheels"\noffline = true\n'
        async with agent(agent_toml(tmp_path, daemon.address, extra=wheels)):
            await until(lambda: daemon.streams, 60)
            await until(lambda: environments(daemon, ENVIRONMENT_STATE_FAILED), 60)
            failed = environments(daemon, ENVIRONMENT_STATE_FAILED)[0]
            assert "nothing-such" in failed.reason
            assert failed.hint
            progress = [s.environment.progress_ratio for s in daemon.last.statuses]
            assert max(progress) > 0
            assert not running(daemon)
            assert "waiting for the compute environment" in seen(daemon)["n-0"].reason


async def test_a_node_without_the_pools_python_gets_no_worker_and_says_why(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        daemon.python_minor = "3.99"
        daemon.want(worker(), generation=2)
        async with agent(agent_toml(tmp_path, daemon.address)):
            await until(lambda: daemon.streams, 60)
            await until(lambda: environments(daemon, ENVIRONMENT_STATE_INCOMPATIBLE))
            judged = environments(daemon, ENVIRONMENT_STATE_INCOMPATIBLE)[0]
            assert "no Python 3.99" in judged.reason
            assert "install" in judged.hint
            assert not running(daemon)


async def test_a_lock_that_is_not_the_wanted_one_is_refused(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        daemon.want(worker(), generation=2)
        daemon.lock_text = "evil==1\n"
        async with agent(agent_toml(tmp_path, daemon.address)):
            await until(lambda: daemon.streams, 60)
            await until(lambda: any("lock file is not the one" in s.environment.reason for s in daemon.last.statuses))


async def test_a_workers_log_is_streamed_and_a_strange_unit_is_refused(tmp_path: Path) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        pretend_environment(tmp_path, daemon)
        daemon.want(worker(), generation=2)
        async with agent(agent_toml(tmp_path, daemon.address)):
            await until(lambda: running(daemon))
            daemon.last.send(log_request=LogRequest(request_id=1, unit="clusterai-worker@n-0", follow=True))
            await until(lambda: "a worker begins" in str(daemon.last.log_chunks))
            assert not any(chunk.done for chunk in daemon.last.log_chunks)
            daemon.last.send(log_cancel={"request_id": 1})
            daemon.last.send(log_request=LogRequest(request_id=2, unit="ssh.service"))
            await until(lambda: any(chunk.request_id == 2 for chunk in daemon.last.log_chunks))
            refused = daemon.last.log_chunks[-1]
            assert refused.done
            assert "only the logs of clusterai-agent" in refused.error
            await stop_workers(daemon)


@pytest.mark.parametrize("reason", [Farewell.REASON_REVOKED, Farewell.REASON_REPLACED])
async def test_who_is_not_the_node_any_more_stops_its_workers_and_waits(tmp_path: Path, reason: Any) -> None:
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        pretend_environment(tmp_path, daemon)
        daemon.want(worker(), generation=2)
        config = agent_toml(tmp_path, daemon.address)
        async with agent(config) as program:
            await until(lambda: running(daemon))
            process_id = running(daemon)
            daemon.last.send(farewell=Farewell(reason=reason, detail="removed by anna"))
            await until(lambda: not Path(f"/proc/{process_id}").exists())
            state = "revoked" if reason == Farewell.REASON_REVOKED else "replaced"
            await until(lambda: f'"{state}"' in (tmp_path / "agent/agent-status.json").read_text())
            assert not (tmp_path / "compute/tls/dask.pem").exists()
            assert program.process.returncode is None
            assert "clusterai-agent join --force" in (await said(config, "status"))[1]
            daemon.spec = NodeSpec(generation=1)
            daemon.enrol(Home(tmp_path / "agent"))
            await until(lambda: len(daemon.streams) == 2)


async def test_run_without_an_identity_says_how_to_join(tmp_path: Path) -> None:
    config = agent_toml(tmp_path)
    code, _, errors = await said(config, "run")
    assert code == 1
    assert "has not joined a cluster" in errors
    assert "clusterai-agent join" in errors
    assert "Traceback" not in errors


async def test_bad_configuration_ends_with_a_sentence(tmp_path: Path) -> None:
    config = agent_toml(tmp_path, extra="[nonsense]\n")
    for arguments in (("run",), ("--check-config",), ("status",)):
        code, _, errors = await said(config, *arguments)
        assert (code, "nonsense" in errors, "Traceback" in errors) == (2, True, False)
    assert await said(agent_toml(tmp_path), "--check-config") == (0, f"{config}: ok\n", "")


async def test_it_tells_systemd_that_it_is_ready_and_how_it_is(tmp_path: Path) -> None:
    import socket

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(60)
    async with NodeDaemon.serving() as daemon:
        daemon.enrol(Home(tmp_path / "agent"))
        config = agent_toml(tmp_path, daemon.address)
        process = await asyncio.create_subprocess_exec(
            *command(config, "run"), stderr=asyncio.subprocess.DEVNULL,
            env=variables() | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"},
        )
        heard: list[str] = []
        while not any("server 127.0.0.1" in text for text in heard) or "WATCHDOG=1" not in heard:
            heard.append(await asyncio.to_thread(lambda: listener.recv(4096).decode()))
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        while not any("STOPPING=1" in text for text in heard):
            heard.append(await asyncio.to_thread(lambda: listener.recv(4096).decode()))
    listener.close()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert any(text.startswith("READY=1") for text in heard)


