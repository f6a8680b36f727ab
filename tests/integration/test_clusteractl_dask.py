"""What `clusteractl dask env` gives is what the real distributed needs."""

import asyncio
import os
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from clusterai.credentials import save_credentials
from clusterai.environment import read_complete
from clusterai.lockfile import lock
from clusterai.pki import key_pem, new_csr, new_key
from clusterai.v1.types_pb2 import EnvironmentSpec
from support.ctl import Ctl
from support.fake_daemon import FakeDaemon, made_up_cluster
from support.pool_environment import pool_environment, python_minor
from support.wheels import make_wheels

PATIENCE = 60
JOB = """
from dask.distributed import Client
with Client() as client:
    print(client.submit(sum, [20, 22]).result(), client.scheduler.address)
"""


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with made_up_cluster() as running:
        running.cluster.environment = EnvironmentSpec(python_minor=python_minor())
        running.cluster.lock_text = lock()
        yield running


@pytest.fixture
def ctl(daemon: FakeDaemon, tmp_path: Path) -> Ctl:
    return Ctl(tmp_path, daemon.socket)


@asynccontextmanager
async def dask(ctl: Ctl, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program of distributed that refuses anything unencrypted."""
    python = await pool_environment() / "bin/python"
    environment = {"HOME": str(ctl.home), "PATH": os.environ["PATH"], "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "1"}
    process = await asyncio.create_subprocess_exec(
        python, "-m", *words, env={**environment, "TMPDIR": str(ctl.home)}, stderr=PIPE
    )
    draining = asyncio.create_task(process.communicate(), name="distributed's log")
    try:
        yield process
    finally:
        process.terminate()
        async with asyncio.timeout(PATIENCE):
            await draining


@asynccontextmanager
async def computing(ctl: Ctl, daemon: FakeDaemon) -> AsyncIterator[str]:
    """A TLS scheduler and a worker with certificates of the daemon's Dask CA; yields the scheduler's address."""
    key, files = new_key(), ctl.home / "dask-server"
    files.mkdir()
    issued = daemon.dask_authority.issue(new_csr(key), "spiffe://c-1/dask/main/tower", server=True)
    save_credentials(files / "own.pem", key_pem(key), issued.chain_pem)
    (files / "ca.pem").write_bytes(daemon.dask_authority.cert_pem)
    own = str(files / "own.pem")
    tls = ("--tls-ca-file", str(files / "ca.pem"), "--tls-cert", own, "--tls-key", own, "--no-dashboard")
    place = files / "scheduler.json"
    async with AsyncExitStack() as parts:
        scheduler = ("distributed.cli.dask_scheduler", "--host", "tls://127.0.0.1:0", "--scheduler-file", str(place))
        await parts.enter_async_context(dask(ctl, *scheduler, *tls))
        address = await written_address(place)
        worker = ("distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1", "--memory-limit", "1GiB")
        await parts.enter_async_context(dask(ctl, *worker, "--local-directory", str(files), *tls))
        yield address


async def written_address(place: Path) -> str:
    """Wait for the scheduler's own note of where it listens."""
    import json

    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                address: str = json.loads(place.read_text())["address"]
                return address
            except (OSError, ValueError):
                await asyncio.sleep(0.05)


async def job(ctl: Ctl, script: str) -> str:
    """Run the job in a shell after the script, as a person would; return what it printed."""
    python = await pool_environment() / "bin/python"
    environment = {"HOME": str(ctl.home), "PATH": os.environ["PATH"], "TMPDIR": str(ctl.home), "JOB": JOB}
    process = await asyncio.create_subprocess_exec(
        "sh", "-ec", f'{script}\n{python} -c "$JOB"', env=environment, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().strip()


async def test_client_connects_with_the_lines_and_with_the_yaml(ctl: Ctl, daemon: FakeDaemon) -> None:
    async with computing(ctl, daemon) as address:
        daemon.cluster.scheduler_address = address
        (ctl.home / "cluster.env").write_text((await ctl("dask", "env")).out)
        assert await job(ctl, f". {ctl.home}/cluster.env") == f"42 {address}"
        settings = ctl.home / ".config/dask/cluster.yaml"
        settings.parent.mkdir(parents=True)
        settings.write_text((await ctl("dask", "env", "--yaml")).out)
        assert await job(ctl, "") == f"42 {address}"


async def test_json_has_the_settings_and_the_files(ctl: Ctl, daemon: FakeDaemon) -> None:
    given = (await ctl("dask", "env", "--json")).data
    assert given["settings"]["scheduler-address"] == given["scheduler_address"] == "tls://tower:8786"
    assert given["settings"]["distributed.comm.tls.client.key"] == given["certificate_file"]
    assert Path(given["ca_file"]).read_bytes() == daemon.dask_authority.cert_pem
    assert given["environment_path"] is None
    (request,) = daemon.asked("IssueDaskClient")
    assert request.pool_name == "main"


async def test_create_builds_the_pools_environment_and_shows_how_to_use_it(ctl: Ctl, daemon: FakeDaemon) -> None:
    path, wheels = ctl.home / "cluster-env", make_wheels(ctl.home / "wheels")
    daemon.cluster.lock_text = wheels.lock_text
    ended = await ctl("dask", "env", "--create", str(path), "--wheels", str(wheels.path))
    assert ended.code == 0, ended.err
    assert f"Use it with: . {path}/bin/activate" in ended.err
    assert len(ended.err.splitlines()) > 2  # progress
    assert "export DASK_SCHEDULER_ADDRESS" in ended.out
    built = read_complete(path)
    assert built is not None
    daemon.cluster.environment = EnvironmentSpec(
        python_minor=python_minor(), versions={"dask": built["dask"], "distributed": built["distributed"]}
    )
    again = await ctl("dask", "env", "--create", str(path), "--json")
    assert (again.code, again.data["environment_path"]) == (0, str(path))
    daemon.cluster.status.pools[0].environment.CopyFrom(daemon.cluster.environment)
    active = Ctl(ctl.home, ctl.socket, {"VIRTUAL_ENV": str(path)})
    checks = {check["check"]: check for check in (await active("doctor", "--json")).data["checks"]}
    assert checks["dask-environment"]["outcome"] == "ok"


async def test_create_does_not_touch_another_environment(ctl: Ctl, daemon: FakeDaemon) -> None:
    environment = await pool_environment()
    daemon.cluster.environment = EnvironmentSpec(python_minor=python_minor(), versions={"dask": "1999.1.0"})
    ended = await ctl("dask", "env", "--create", str(environment), "--json")
    assert (ended.code, ended.error["code"]) == (1, "other-environment")
    assert "dask 1999.1.0 is wanted" in ended.error["message"]
    assert read_complete(environment) is not None


async def test_create_without_the_pools_python_says_how_to_get_it(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.environment = EnvironmentSpec(python_minor="3.99")
    ended = await ctl("dask", "env", "--create", str(ctl.home / "env"))
    assert ended.code == 1
    assert "3.99" in ended.err
    assert not (ctl.home / "env").exists()


async def test_create_that_fails_leaves_nothing_and_says_why(ctl: Ctl) -> None:
    wheels = ctl.home / "wheels"
    wheels.mkdir()
    ended = await ctl("dask", "env", "--create", str(ctl.home / "env"), "--wheels", str(wheels), "--json")
    assert ended.code == 1
    assert ended.error["message"]
    assert ended.error["hint"]
    assert not (ctl.home / "env").exists()
