"""A laptop computes in a real pool, is unplugged in mid-task and plugged in again; whoever is killed meanwhile."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.agent_program import AgentProgram
from support.battery import BatteryTree
from support.compute_cluster import ComputeCluster, ComputeNode, compute_cluster

LAPTOP = '[policy]\nmachine_class = "laptop"\n'
REASON = "on battery, 95 %; works from 80 % while charging"
# Six tasks of a second on each worker, and a result that only the laptop has.
WORK = """
def slow(number):
    time.sleep(1)
    return [number, get_worker().name]
held = client.submit(slow, 99, workers=["ann-0"], allow_other_workers=False)
wait(held)
tasks = client.map(slow, range(12))
while sum(task.done() for task in tasks) < 2:
    time.sleep(0.05)
say("computing")
results = client.gather(tasks)
say({"numbers": [number for number, _ in results], "names": sorted({name for _, name in results})})
say(held.result())
hear()
say(client.submit(slow, 7, workers=["ann-0"]).result())
"""


@dataclass
class Scene:
    cluster: ComputeCluster
    battery: BatteryTree
    ann: ComputeNode
    agents: AsyncExitStack

    async def start_ann(self) -> AgentProgram:
        return await self.agents.enter_async_context(self.ann.running())


@asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[Scene]:
    """A tower on the mains and Ann's laptop, both with a worker."""
    battery = BatteryTree(directory)
    async with compute_cluster(directory) as cluster, AsyncExitStack() as agents:
        tower = await cluster.node("tower", extra='[policy]\nmachine_class = "server"\n')
        ann = await cluster.node("ann", extra=LAPTOP, modules=battery.modules)
        await agents.enter_async_context(tower.running())
        yield Scene(cluster, battery, ann, agents)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    with tempfile.TemporaryDirectory() as directory:
        async with two_nodes(Path(directory)) as made:
            yield made


async def until_rested(cluster: ComputeCluster) -> None:
    await cluster.until("ann", "resting", 0)


async def kinds(cluster: ComputeCluster) -> list[str]:
    return [event["kind"] for event in (await cluster.ctl("events", "--json")).records if event["subject"] == "ann"]


async def test_unplugged_in_mid_task_it_rests_and_nothing_is_lost(scene: Scene) -> None:
    cluster = scene.cluster
    await scene.start_ann()
    await cluster.until("tower", "ready", 1)
    await cluster.until("ann", "ready", 1)
    assert (await cluster.ctl("policy", "set", "ann", "dwell_seconds=1")).code == 0
    async with cluster.client(WORK) as client:
        assert await client.said() == "computing"
        scene.battery.unplug()
        await until_rested(cluster)
        told = await client.said()
        assert told["numbers"] == list(range(12))
        assert "ann-0" in told["names"], "what it had computed counts"
        assert await client.said() == [99, "ann-0"], "a result that only the laptop had was moved, not computed again"
        shown = (await cluster.ctl("node", "show", "ann", "--json")).data
        assert (shown["state"], shown["reason"], shown["workers"]) == ("resting", REASON, [])
        code, said, _ = await scene.ann.said("status")
        assert code == 0
        assert REASON in said
        scene.battery.plug()
        await cluster.until("ann", "ready", 1)
        client.tell()
        assert await client.said() == [7, "ann-0"]
    assert not {"node-offline", "node-suspect", "node-rest-forced"} & set(await kinds(cluster))


@pytest.mark.parametrize("victim", ["agent", "daemon"])
async def test_whoever_is_killed_on_the_way_to_rest_it_rests_and_comes_back(scene: Scene, victim: str) -> None:
    cluster, daemon = scene.cluster, scene.cluster.daemon
    agent = await scene.start_ann()
    await cluster.until("tower", "ready", 1)
    await cluster.until("ann", "ready", 1)
    assert (await cluster.ctl("policy", "set", "ann", "dwell_seconds=1")).code == 0
    async with cluster.client(WORK) as client:
        assert await client.said() == "computing"
        scene.battery.unplug()
        await cluster.until("ann", "resting", 1)
        if victim == "agent":
            await agent.kill()
        if victim == "daemon":
            await daemon.kill()
            await daemon.start()
        if victim == "agent":
            await scene.start_ann()
        await until_rested(cluster)
        told = await client.said()
        assert told["numbers"] == list(range(12))
        assert await client.said() == [99, "ann-0"]
        scene.battery.plug()
        await cluster.until("ann", "ready", 1)
        client.tell()
        assert await client.said() == [7, "ann-0"]


async def test_at_rest_a_restart_of_either_side_starts_no_worker(scene: Scene) -> None:
    cluster, daemon = scene.cluster, scene.cluster.daemon
    scene.battery.unplug()
    agent = await scene.start_ann()
    await until_rested(cluster)
    await agent.kill()
    await daemon.kill()
    await daemon.start()
    await scene.start_ann()
    await until_rested(cluster)
    await asyncio.sleep(1)
    await until_rested(cluster)
    assert not list((scene.ann.directory / "compute").rglob("ann-0.json"))
    log = scene.ann.directory / "agent.log"
    assert "starting worker" not in log.read_text()


async def test_its_owner_pauses_it_and_ends_the_pause(scene: Scene) -> None:
    cluster = scene.cluster
    agent = await scene.start_ann()
    await cluster.until("tower", "ready", 1)
    await cluster.until("ann", "ready", 1)
    assert (await cluster.ctl("policy", "set", "ann", "dwell_seconds=0")).code == 0
    code, said, errors = await scene.ann.said("pause", "2h")
    assert code == 0, errors
    assert "This machine rests until" in said
    await until_rested(cluster)
    await agent.kill()
    await scene.start_ann()
    await until_rested(cluster)
    assert "paused by its owner until" in (await cluster.ctl("node", "list")).out
    status = json.loads((await scene.ann.said("status", "--json"))[1])
    assert status["policy"]["reason_code"] == "paused"
    assert (await scene.ann.said("resume"))[0] == 0
    await cluster.until("ann", "ready", 1)
    assert (await scene.ann.said("resume"))[1] == "There is no pause.\n"
    code, _, errors = await scene.ann.said("pause", "forever")
    assert code == 2
    assert "until-charged" in errors
