"""Two pools side by side with real schedulers and workers: a server in `main`, a phone in `mobile`.

The pool of the phones runs the Python that this machine has. The phone is an agent that is told to be one.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from support.compute_cluster import ComputeCluster, ComputeNode, compute_cluster
from support.local_cluster import processes_of
from support.pool_environment import python_minor
from support.wheels import make_wheels

SERVER, PHONE = '[policy]\nmachine_class = "server"\n', '[policy]\nmachine_class = "phone"\n'
OFF = "the pool mobile is off: [mobile] enabled in clusteraid.toml"
WAIT_SECONDS = 90.0
# A task that runs until it is told, on the one worker of the pool, and a result that lies there.
WORK = """
held = client.submit(lambda: get_worker().name)
wait(held)
def slow():
    time.sleep(6)
    return get_worker().name
running = client.submit(slow, pure=False)
time.sleep(1)
say("computing")
hear()
say([held.result(), running.result(), sorted(held.key for key in client.who_has(held))])
"""


def mobile(python: str = python_minor(), *, enabled: bool = True, more: str = "") -> str:
    return f"""
[mobile]
enabled = {str(enabled).lower()}
scheduler_port = 0
dashboard_port = 0
python = "{python}"
{more}
"""


@dataclass
class Scene:
    cluster: ComputeCluster
    pixel: ComputeNode

    async def pools(self) -> dict[str, Any]:
        return {pool["pool_name"]: pool for pool in (await self.cluster.ctl("status", "--json")).data["pools"]}

    async def workers(self, *words: str) -> dict[str, str]:
        listed = (await self.cluster.ctl("worker", "list", *words, "--json")).data["workers"]
        return {worker["worker_name"]: worker["pool_name"] for worker in listed}

    async def configure(self, settings: str) -> None:
        """Restart the daemon with another `[mobile]`."""
        daemon = self.cluster.daemon
        await daemon.stop()
        daemon.config.write_text(daemon.config.read_text().partition("[mobile]")[0] + settings)
        await daemon.start()


@asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[Scene]:
    async with compute_cluster(directory, mobile()) as cluster, AsyncExitStack() as agents:
        anywhere = ("charging_only=false", "unmetered_only=false", "work_when_unknown=true", "dwell_seconds=0")
        assert (await cluster.ctl("policy", "set", "--class", "phone", *anywhere)).code == 0
        tower, pixel = await cluster.node("tower", extra=SERVER), await cluster.node("pixel", extra=PHONE)
        for node in (tower, pixel):
            await agents.enter_async_context(node.running())
        for node in (tower, pixel):
            await cluster.until(node.name, "ready", 1)
        yield Scene(cluster, pixel)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    with tempfile.TemporaryDirectory() as directory:
        async with two_nodes(Path(directory)) as made:
            yield made


async def test_each_node_computes_in_its_pool_and_people_see_both(scene: Scene) -> None:
    cluster = scene.cluster
    pools = await scene.pools()
    assert {name: (pool["scheduler_state"], pool["worker_count"]) for name, pool in pools.items()} == {
        "main": ("running", 1), "mobile": ("running", 1),
    }  # fmt: skip
    assert pools["main"]["scheduler_address"] != pools["mobile"]["scheduler_address"]
    assert pools["main"]["dashboard_address"] != pools["mobile"]["dashboard_address"]
    page = " ".join((await cluster.ctl("status")).out.split())
    assert "main: running, 1 worker," in page
    assert "mobile: running, 1 worker," in page
    assert await scene.workers() == {"tower-0": "main", "pixel-0": "mobile"}
    assert await scene.workers("--pool", "mobile") == {"pixel-0": "mobile"}
    assert "POOL" in (await cluster.ctl("worker", "list")).out
    units = [unit["unit"] for unit in (await cluster.ctl("unit", "list", "--json")).data["units"]]
    assert units == ["clusterai-scheduler@main.service", "clusterai-scheduler@mobile.service"]
    for pool, worker in (("main", "tower-0"), ("mobile", "pixel-0")):
        async with cluster.client("say(client.submit(lambda: get_worker().name).result())", pool) as client:
            assert await client.said() == worker
        given = (await cluster.ctl("dask", "env", "--pool", pool, "--json")).data
        assert given["pool_name"] == pool
        assert given["environment"]["python_minor"] == python_minor()
        certificate = x509.load_pem_x509_certificate(Path(given["certificate_file"]).read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        assert f"/dask/{pool}/client-" in uri
    assert "numpy" not in pools["mobile"]["environment"]["versions"]
    assert "numpy" in pools["main"]["environment"]["versions"]


async def test_a_pool_that_there_is_not_is_refused_with_those_that_there_are(scene: Scene) -> None:
    for words in (("dask", "env", "--pool", "gpu"), ("worker", "list", "--pool", "gpu")):
        refused = await scene.cluster.ctl(*words, "--json")
        assert (refused.code, refused.error["code"]) == (3, "no-such-pool")
        assert refused.error["message"] == "there is no pool 'gpu'; there is main and mobile"


async def test_a_phone_that_is_drained_or_rests_touches_its_own_pool_only(scene: Scene) -> None:
    cluster = scene.cluster
    async with cluster.client(WORK) as client:
        assert await client.said() == "computing"
        drained = await cluster.ctl("node", "drain", "pixel")
        assert drained.code == 0, drained.err
        await cluster.until("pixel", "drained", 0)
        assert await cluster.seen("tower") == ("ready", 1)
        assert (await cluster.ctl("node", "undrain", "pixel")).code == 0
        await cluster.until("pixel", "ready", 1)
        assert (await scene.pixel.said("pause", "2h"))[0] == 0
        await cluster.until("pixel", "resting", 0)
        assert await cluster.seen("tower") == ("ready", 1)
        client.tell()
        assert (await client.said())[:2] == ["tower-0", "tower-0"]
    assert (await scene.pixel.said("resume"))[0] == 0
    await cluster.until("pixel", "ready", 1)
    assert await scene.workers() == {"tower-0": "main", "pixel-0": "mobile"}


async def test_the_only_phone_does_not_lose_its_results_to_a_drain(scene: Scene) -> None:
    """The other pool has a worker, but it is no place for them."""
    async with scene.cluster.client("held = client.submit(lambda: 7); wait(held); say(1); hear()", "mobile") as client:
        await client.said()
        refused = await scene.cluster.ctl("node", "drain", "pixel", "--json")
        assert refused.code == 1
        assert refused.error["code"] in ("nowhere-to-move", "drain-refused")  # by what was known of the result
        client.tell()
    await scene.cluster.until("pixel", "ready", 1)


async def test_mobile_is_switched_off_and_on_again(scene: Scene) -> None:
    cluster = scene.cluster
    directory = cluster.daemon.directory
    assert (directory / "scheduler/mobile.json").exists()
    async with cluster.client(WORK) as client:
        assert await client.said() == "computing"
        await scene.configure(mobile(enabled=False))
        await cluster.until("pixel", "incompatible", 0)
        shown = await until_without_workers(cluster)
        assert (shown["reason"], shown["pool_name"]) == (OFF, "")
        assert "enabled = true" in shown["hint"]
        assert OFF in (await scene.pixel.said("status"))[1]
        assert list(await scene.pools()) == ["main"]
        refused = await cluster.ctl("dask", "env", "--pool", "mobile", "--json")
        assert refused.error["code"] == "mobile-is-off"
        await until_gone(directory / "scheduler/mobile.json")
        client.tell()
        assert (await client.said())[:2] == ["tower-0", "tower-0"], "the other pool computes on"
    await scene.configure(mobile())
    await cluster.until("pixel", "ready", 1)
    await cluster.until("tower", "ready", 1)
    assert {name: pool["scheduler_state"] for name, pool in (await scene.pools()).items()} == {
        "main": "running", "mobile": "running",
    }  # fmt: skip


async def until_without_workers(cluster: ComputeCluster) -> Any:
    """Wait until nothing of the phone's workers is shown, and return what is."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (shown := (await cluster.ctl("node", "show", "pixel", "--json")).data)["workers"]:
            await asyncio.sleep(0.05)
    return shown


async def until_gone(launch: Path) -> None:
    """Wait until no process runs from that launch file, and there is none."""
    async with asyncio.timeout(WAIT_SECONDS):
        while launch.exists() or list(processes_of(launch)) or list(processes_of(launch.with_name("mobile-dask.pem"))):
            await asyncio.sleep(0.05)


async def test_without_its_python_the_pool_waits_and_says_how_to_get_it_while_everything_else_works(
    tmp_path: Path,
) -> None:
    async with compute_cluster(tmp_path, mobile("3.99")) as cluster:
        tower = await cluster.node("tower", extra=SERVER)
        pixel = await cluster.node("pixel", extra=PHONE)
        async with tower.running(), pixel.running():
            await cluster.until("tower", "ready", 1)
            await cluster.until("pixel", "incompatible", 0)
            waiting = await until_told(cluster, "has no Python 3.99")
            assert waiting["scheduler_state"] == "waiting"
            assert "uv python install 3.99" in waiting["reason"]
            async with cluster.client("say(client.submit(lambda: 7).result())") as client:
                assert await client.said() == 7
            lacking = await cluster.ctl("dask", "env", "--pool", "mobile", "--create", str(tmp_path / "env"), "--json")
            assert lacking.error["code"] == "no-such-python"
            assert "uv python install 3.99" in lacking.error["hint"]
            assert not (tmp_path / "env").exists()
            checks = {one["check"]: one for one in (await cluster.ctl("doctor", "--json")).data["checks"]}
            assert "of the pool mobile" in checks["environment"]["message"]


async def test_the_servers_own_agent_builds_what_the_phones_scheduler_needs(tmp_path: Path) -> None:
    wheels = make_wheels(tmp_path / "wheels")
    lock = tmp_path / "phones.lock"
    lock.write_text(wheels.lock_text)
    from_wheels = f'[environment]\nwheel_directory = "{wheels.path}"\noffline = true\n'
    async with compute_cluster(tmp_path, mobile(more=f'lock_file = "{lock}"')) as cluster:
        tower = await cluster.node("tower", extra=SERVER + from_wheels)
        async with tower.running():
            await cluster.until("tower", "ready", 1)
            pools = {pool["pool_name"]: pool for pool in (await cluster.ctl("status", "--json")).data["pools"]}
            own, other = (pools[name]["environment"]["environment_hash"] for name in ("main", "mobile"))
            assert own != other
            built = tower.directory / "compute/env" / other / ".complete"
            async with asyncio.timeout(WAIT_SECONDS):
                while not built.exists():
                    await asyncio.sleep(0.05)
        async with tower.running():
            await cluster.until("tower", "ready", 1)
            assert built.exists(), "a new start removes what no pool needs, and this is needed"
            assert (tower.directory / "compute/env" / own / ".complete").exists()


async def until_told(cluster: ComputeCluster, words: str) -> Any:
    """Wait until the pool of the phones gives that reason, and return it."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            pools = {pool["pool_name"]: pool for pool in (await cluster.ctl("status", "--json")).data["pools"]}
            if words in pools["mobile"]["reason"]:
                return pools["mobile"]
            await asyncio.sleep(0.05)
