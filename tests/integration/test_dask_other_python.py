"""A client and a worker that run another Python minor meet a real scheduler.

There is one Python here, so they are the real programs that only tell another version, in the message in which Dask
tells its own. What they see is what one of another minor sees.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.dask_pool import SCHEDULER, DaskPool, dask_pool, until
from support.pool_environment import pool_environment

_FORGED = """
import distributed.versions, distributed.worker
from importlib import import_module
real = distributed.versions.get_versions
def forged(*packages):
    told = real(*packages)
    told["packages"]["python"] = {python!r}
    return told
distributed.versions.get_versions = distributed.worker.get_versions = forged
"""
_CLIENT = """
import time
from distributed import Client
from distributed.security import Security
security = Security(
    tls_ca_file="ca.pem", tls_client_cert="client.pem", tls_client_key="client.pem", require_encryption=True
)
began = time.monotonic()
try:
    with Client({address!r}, security=security, timeout=30) as client:
        print(client.submit(lambda number: number + 1, 1).result())
except ImportError as error:
    print(f"refused: {{error}}")
print(time.monotonic() - began < 10)
"""
_WORKER = """
from distributed.cli.dask_worker import main
files = "--tls-ca-file ca.pem --tls-cert worker.pem --tls-key worker.pem"
main(f"{address} --name other-0 --no-nanny --protocol tls --no-dashboard --death-timeout 20 {{files}}".split())
"""
ELSEWHERE = "3.99.1.final.0"


@pytest.fixture
async def pool() -> AsyncIterator[DaskPool]:
    with tempfile.TemporaryDirectory() as directory:
        async with dask_pool(Path(directory), await pool_environment(), "a-0") as running:
            yield running


async def run(pool: DaskPool, program: str, python: str) -> tuple[int, str]:
    """Run the program, which tells that Python, and return its exit code and all that it said."""
    text = _FORGED.format(python=python) + program.format(address=pool.address)
    process = await asyncio.create_subprocess_exec(
        pool.environment / "bin/python", "-c", text, cwd=pool.directory, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, env={"PATH": "/usr/bin:/bin", "HOME": str(pool.directory)},
    )  # fmt: skip
    async with asyncio.timeout(90):
        said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_a_client_of_another_minor_is_refused_with_the_reason_and_the_way_out(pool: DaskPool) -> None:
    code, said = await run(pool, _CLIENT, ELSEWHERE)
    assert code == 0, said
    first, soon = said.splitlines()[-2:]
    assert first.startswith("refused: the pool main runs Python 3.")
    assert "this client runs Python 3.99" in first
    assert "`clusteractl dask env --pool main --create PATH` makes an environment that matches" in first
    assert soon == "True", "it does not try until its time is over"
    assert "refused the client at tls://127.0.0.1" in pool.log(SCHEDULER)
    assert await pool.compute("say(client.submit(lambda: 7).result())") == 7, "others compute on"


async def test_a_client_with_another_patch_release_computes(pool: DaskPool) -> None:
    minor = (pool.environment / "pyvenv.cfg").read_text().partition("version = ")[2].split(".")[1]
    code, said = await run(pool, _CLIENT, f"3.{minor}.99.final.0")
    assert code == 0, said
    assert said.splitlines()[-2] == "2"


async def test_a_worker_of_another_minor_ends_with_the_reason_and_gets_no_task(pool: DaskPool) -> None:
    code, said = await run(pool, _WORKER, ELSEWHERE)
    assert code != 0
    assert "this worker runs Python 3.99" in said
    assert "refused the worker at tls://127.0.0.1" in pool.log(SCHEDULER)
    await until(lambda: set(pool.control.workers) == {"a-0"}, "only the other is registered")
    assert await pool.compute("say(client.submit(lambda: 7).result())") == 7
