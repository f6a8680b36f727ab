"""Certificates are renewed in running Dask processes; pinned here for the distributed of the lock."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from clusterai.files import write_atomic
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from support.dask_env import dask_environment
from support.dask_pool import SCHEDULER, DaskPool, dask_pool, until, worker_unit

SHORT = timedelta(seconds=12)
UNITS = (SCHEDULER, worker_unit("n-0"), worker_unit("m-0"))
ACROSS = """
made = client.submit(lambda: (get_worker().name, os.urandom(1 << 20)), workers=["{maker}"], pure=False)
take = lambda made: [made[0], len(made[1]), get_worker().name]
say(client.submit(take, made, workers=["{taker}"], pure=False).result())
"""


@pytest.fixture(scope="session")
def environment() -> Path:
    return dask_environment()


def count(pool: DaskPool, text: str) -> list[int]:
    """How often each process has said it."""
    return [pool.log(unit).count(text) for unit in UNITS]


async def test_the_pool_works_on_beyond_the_end_of_its_first_certificates(tmp_path: Path, environment: Path) -> None:
    class ShortLived(DaskPool):
        def certify(self, name: str, lifetime: timedelta = SHORT) -> None:
            super().certify(name, lifetime)

    async with dask_pool(tmp_path, environment, "n-0", "m-0", make=ShortLived) as pool:
        first = await asyncio.gather(*(pool.units.status(unit) for unit in UNITS))
        for name in ("scheduler", "worker", "client"):
            pool.certify(name, timedelta(hours=1))
        await until(lambda: count(pool, "into 2 contexts") == [1, 1, 1], "each has taken its new certificate")
        await asyncio.sleep(SHORT.total_seconds())
        assert await pool.compute(ACROSS.format(maker="n-0", taker="m-0")) == ["n-0", 1 << 20, "m-0"]
        assert await pool.compute(ACROSS.format(maker="m-0", taker="n-0")) == ["m-0", 1 << 20, "n-0"]
        assert await asyncio.gather(*(pool.units.status(unit) for unit in UNITS)) == first, "nobody was restarted"


async def both_say(pool: DaskPool, text: str, times: int) -> None:
    """Wait until both workers have said it so often."""
    await until(lambda: count(pool, text)[1:] == [times, times], f"both have said {text!r} {times} times")


async def test_a_bad_renewal_keeps_the_old_certificate_and_says_why(tmp_path: Path, environment: Path) -> None:
    async with dask_pool(tmp_path, environment, "n-0", "m-0") as pool:
        good = (tmp_path / "worker.pem").read_bytes()
        stranger, key = CertificateAuthority.create("other", "spiffe://other/dask"), new_key()
        foreign = stranger.issue(new_csr(key), "spiffe://other/dask/main/x", server=True).chain_pem
        one_purpose = pool.authority.issue(new_csr(key), "spiffe://test/dask/main/x", server=False).chain_pem
        own = pool.authority.issue(new_csr(key), "spiffe://test/dask/main/x", server=True).chain_pem
        bad = (
            b"",
            good[: len(good) // 2],
            key_pem(new_key()) + own,
            key_pem(key) + foreign,
            key_pem(key) + one_purpose,
        )
        for number, content in enumerate(bad, 1):
            write_atomic(tmp_path / "worker.pem", content)
            await both_say(pool, "keeping the old certificate", number)
        assert await pool.compute(ACROSS.format(maker="n-0", taker="m-0")) == ["n-0", 1 << 20, "m-0"]
        write_atomic(tmp_path / "worker.pem", good)
        await both_say(pool, "into 2 contexts", 1)


async def test_a_distributed_in_which_the_contexts_are_not_found_ends_at_once(environment: Path) -> None:
    """Loud now, not silent a week later when the certificate ends."""
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "common/clusterai")!r})
import dask_preload
class Scheduler: listeners = (); connection_args = {{}}
asyncio.run(dask_preload.dask_setup(Scheduler()))
"""
    process = await asyncio.create_subprocess_exec(
        environment / "bin/python", "-c", program, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"found 0 TLS contexts instead of 2" in said
