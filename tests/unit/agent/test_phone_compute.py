"""What a phone computes with: an installed package, no built environment; and a limit that the agent keeps."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clusterai.environment import EnvironmentBuildFailed, read_complete
from clusterai.installed_environment import (
    ComputeNotInstalled,
    OtherLock,
    OtherPython,
    assemble,
    check_installed,
    own_minor,
)
from clusterai.lockfile import EnvironmentKey
from clusterai.units import UnitStatus
from clusterai.v1 import types_pb2 as types
from clusterai_agent.config import EnvironmentSection
from clusterai_agent.server import Server
from clusterai_agent.supervisor.desired import DesiredEnvironment, DesiredWorker
from clusterai_agent.supervisor.environments import Environments
from clusterai_agent.supervisor.memory import MemoryGuard, resident_bytes
from clusterai_agent.supervisor.workers import Ground, Workers, launch_of, unit_of
from support.waiting import until

LOCK = "dask==1 --hash=sha256:00\n"
PROOF = "import json, madeup; print(json.dumps({'python': '3', 'madeup': madeup.VERSION}))"


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """What the package clusterai-compute would have installed."""
    directory = tmp_path / "clusterai-compute"
    directory.mkdir()
    (directory / "pool.lock").write_text(LOCK)
    (directory / "madeup.py").write_text("VERSION = '7'\n")
    return directory


def key(lock: str = LOCK) -> str:
    return EnvironmentKey(own_minor(), lock).hash


def test_the_installed_modules_are_there_for_an_isolated_interpreter(modules: Path, tmp_path: Path) -> None:
    directory = tmp_path / "env" / key()
    assert assemble(directory, modules, PROOF) == {"python": "3", "madeup": "7"}
    assert read_complete(directory) == {"python": "3", "madeup": "7"}
    command = [str(directory / "bin/python"), "-I", "-c", "import madeup; print(madeup.__file__)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().startswith(str(modules))


def test_half_an_environment_is_made_anew(modules: Path, tmp_path: Path) -> None:
    directory = tmp_path / "env" / key()
    (directory / "bin").mkdir(parents=True)
    (directory / "bin/python").write_text("half")
    assert assemble(directory, modules, PROOF)["madeup"] == "7"


def test_modules_that_do_not_import_are_said_so(modules: Path, tmp_path: Path) -> None:
    directory = tmp_path / "env" / key()
    (modules / "madeup.py").write_text("import numpy_that_is_not_there\n")
    with pytest.raises(EnvironmentBuildFailed, match="No module named 'numpy_that_is_not_there'") as failed:
        assemble(directory, modules, PROOF)
    assert "pkg upgrade" in failed.value.advice
    assert read_complete(directory) is None


def test_no_package_another_lock_and_another_python_are_told_apart(modules: Path, tmp_path: Path) -> None:
    check_installed(modules, key(), own_minor())
    with pytest.raises(ComputeNotInstalled) as absent:
        check_installed(tmp_path / "nowhere", key(), own_minor())
    assert absent.value.advice == "install it: `pkg install clusterai-compute`"
    with pytest.raises(OtherLock, match=f"makes environment {key()}, the server's pool has {key('newer')}") as other:
        check_installed(modules, key("newer"), own_minor())
    assert "pkg upgrade" in other.value.advice
    with pytest.raises(OtherPython, match=r"Python is 3\.13, that of its pool is 3\.14") as older:
        check_installed(modules, key(), "3.14", minor="3.13")
    assert older.value.advice == "run `pkg upgrade`"
    with pytest.raises(OtherPython) as newer:
        check_installed(modules, key(), "3.9", minor="3.14")
    assert "wait until the server's pool has this one" in newer.value.advice


def environments(tmp_path: Path, modules: Path) -> Environments:
    return Environments(tmp_path / "env", EnvironmentSection(), Server(), lambda: None, modules)


async def test_a_package_of_another_lock_is_incompatible_until_it_is_upgraded(modules: Path, tmp_path: Path) -> None:
    made, wanted = environments(tmp_path, modules), DesiredEnvironment(key("newer"), own_minor(), build=False)
    (modules / "pool.lock").write_text(LOCK)
    await made.want(wanted)
    assert made.status.state == types.ENVIRONMENT_STATE_INCOMPATIBLE
    assert "pkg upgrade" in made.status.hint
    (modules / "pool.lock").write_text("newer")
    assemble(tmp_path / "env" / wanted.hash, modules, PROOF)
    await made.want(wanted)
    assert made.ready
    assert dict(made.status.versions) == {"python": "3", "madeup": "7"}


async def test_a_python_that_went_away_under_its_feet_is_no_ready_environment(modules: Path, tmp_path: Path) -> None:
    made = environments(tmp_path, modules)
    assemble(tmp_path / "env" / key(), modules, PROOF)
    await made.want(DesiredEnvironment(EnvironmentKey("3.9", LOCK).hash, "3.9", build=True))
    assert (made.ready, made.status.state) == (False, types.ENVIRONMENT_STATE_INCOMPATIBLE)
    assert f"this phone's Python is {own_minor()}" in made.status.reason


async def test_what_does_not_import_is_failed_with_the_fix(modules: Path, tmp_path: Path) -> None:
    """The real proof asks for Dask, which these modules are not."""
    made = environments(tmp_path, modules)
    await made.want(DesiredEnvironment(key(), own_minor(), build=True))
    await until(lambda: made.status.state == types.ENVIRONMENT_STATE_FAILED)
    assert "No module named" in made.status.reason
    assert "pkg reinstall clusterai-compute" in made.status.hint
    await made.close()


class OneProcess:
    """A back-end with one worker, which is a process of the test's."""

    back_end = "process"

    def __init__(self, process_id: int) -> None:
        self.process_id = process_id

    async def status(self, unit: str) -> UnitStatus:
        return UnitStatus(unit_of(unit), active_state="active", main_process_id=self.process_id)


def a_worker(directory: Path, limit: int) -> DesiredWorker:
    """Write the launch file of a worker with that limit in bytes."""
    worker = DesiredWorker("phone-0", 1, limit)
    path = directory / "p"
    ground = Ground(path, "tls://192.0.2.1:8786", "", path, path, path)
    (directory / "phone-0.json").write_text(launch_of(worker, ground).to_json())
    return worker


async def test_a_worker_beyond_its_limit_is_ended_and_says_why(tmp_path: Path) -> None:
    worker = a_worker(tmp_path, 50_000_000)
    hog = "import time; held = bytearray(120_000_000); print(len(held), flush=True); time.sleep(100)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", hog, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    assert resident_bytes(process.pid) > 120_000_000
    workers, woken = Workers(tmp_path, OneProcess(process.pid)), []  # type: ignore[arg-type]
    await MemoryGuard(workers, lambda: woken.append(1)).look()
    assert await process.wait() == -9
    assert woken
    [status] = await workers.statuses([worker])
    assert status.state == types.WORKER_STATE_RUNNING
    assert "because it held 1" in status.reason
    assert "may hold 50 MB; started again" in status.reason


async def test_a_worker_within_its_limit_is_left_alone(tmp_path: Path) -> None:
    worker = a_worker(tmp_path, 1 << 40)
    workers = Workers(tmp_path, OneProcess(os.getpid()))  # type: ignore[arg-type]
    await MemoryGuard(workers, lambda: None).look()
    [status] = await workers.statuses([worker])
    assert status.reason == ""


async def test_a_process_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    assert resident_bytes((1 << 22) + 1) == 0
