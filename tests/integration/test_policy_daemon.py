"""Policies with the real daemon: set and shown by `clusteractl`, told to nodes; a node that rests as people see it."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from clusterai.v1.node_pb2 import NodeStatus
from clusterai.v1.types_pb2 import MACHINE_CLASS_LAPTOP, POLICY_STATE_RESTING, POLICY_STATE_WORKING, PolicyStatus
from support.ctl import Ctl
from support.killable import KillableDaemon, killable_daemon
from support.sim_node import SimNode, SimSession, channel_of, sim_node, state

BATTERY = "on battery, 41 %; works from 80 % while charging"
RESTS = NodeStatus(policy=PolicyStatus(state=POLICY_STATE_RESTING, reason_code="on-battery", reason=BATTERY))
WORKS = NodeStatus(policy=PolicyStatus(state=POLICY_STATE_WORKING, reason_code="works"))
LAPTOP = MACHINE_CLASS_LAPTOP


@pytest.fixture
async def daemon() -> AsyncIterator[KillableDaemon]:
    with tempfile.TemporaryDirectory() as directory:
        async with killable_daemon(Path(directory)) as running:
            yield running


@pytest.fixture
def admin(daemon: KillableDaemon, tmp_path: Path) -> Ctl:
    return Ctl(tmp_path, daemon.socket)


async def until_state(daemon: KillableDaemon, wanted: str) -> None:
    async with asyncio.timeout(60):
        while await state(daemon, "ann") != wanted:
            await asyncio.sleep(0.02)


async def settled(session: SimSession, *, workers: bool) -> None:
    """Read specs until the node is told to have workers, or none."""
    async with asyncio.timeout(60):
        while bool((await session.read_until("spec")).spec.workers) != workers:
            pass


async def test_a_node_that_rests_is_shown_with_its_reason_and_has_no_workers(
    daemon: KillableDaemon, admin: Ctl
) -> None:
    async with sim_node(daemon, "ann") as node:
        session = await node.session(machine_class=LAPTOP)
        assert session.welcome.spec.workers
        assert session.welcome.spec.policy.charging_only
        await session.report(RESTS)
        await settled(session, workers=False)
        listed = await admin("node", "list")
        assert f"ann is resting: {BATTERY}" in " ".join(listed.out.split())
        assert (await admin("node", "show", "ann", "--json")).data["state"] == "resting"
        assert f"ann is a laptop, resting {BATTERY}" in " ".join((await admin("policy", "show", "ann")).out.split())
        assert (await admin("status", "--json")).data["problems"] == []
        kinds = [event["kind"] for event in (await admin("events", "--json")).records]
        assert "node-resting" in kinds
        assert "node-offline" not in kinds
        await session.report(WORKS)
        await settled(session, workers=True)
        assert await state(daemon, "ann") == "ready"


async def test_a_daemon_that_is_killed_while_a_node_rests_starts_none_of_its_workers(daemon: KillableDaemon) -> None:
    async with sim_node(daemon, "ann") as node:
        session = await node.session(machine_class=LAPTOP)
        await session.report(RESTS)
        await settled(session, workers=False)
    await daemon.kill()
    await daemon.start()
    port = json.loads((daemon.state / "ports.json").read_text())["port"]
    async with channel_of(replace(node.enrolled, server_addresses=(f"127.0.0.1:{port}",))) as channel:
        again = SimNode("ann", node.enrolled, channel)
        session = await again.session(status=RESTS, machine_class=LAPTOP)
        assert not session.welcome.spec.workers
        await until_state(daemon, "resting")
        await session.report(WORKS)
        await settled(session, workers=True)


async def test_an_agent_that_knows_no_policy_works_as_before(daemon: KillableDaemon, admin: Ctl) -> None:
    async with sim_node(daemon, "ann") as node:
        session = await node.session()
        assert session.welcome.spec.workers
        assert not session.welcome.spec.HasField("policy")
        await session.report(NodeStatus(observed_generation=session.welcome.spec.generation))
        assert await state(daemon, "ann") == "ready"
        shown = await admin("policy", "show", "ann")
        assert "too old to know a policy: it always works" in shown.out


async def test_what_is_set_reaches_the_node_and_outlives_the_daemon(daemon: KillableDaemon, admin: Ctl) -> None:
    async with sim_node(daemon, "ann", machine_class=LAPTOP) as node:
        session = await node.session(machine_class=LAPTOP)
        changed = await admin("policy", "set", "ann", "quiet_hours=22:00-07:00", "battery_start_percent=90")
        assert changed.code == 0, changed.err
        policy = (await session.read_until("spec")).spec.policy
        assert (policy.quiet_hours, policy.battery_start_percent) == ("22:00-07:00", 90)
        assert (await admin("policy", "set", "--class", "laptop", "dwell_seconds=120")).code == 0
        assert (await session.read_until("spec")).spec.policy.dwell_seconds == 120
    await daemon.kill()
    await daemon.start()
    [shown] = (await admin("policy", "show", "ann", "--json")).data["policies"]
    values = {value["key"]: (value["value"], value["source"]) for value in shown["values"]}
    assert (shown["node_id"], shown["machine_class"]) == ("ann", "laptop")
    assert values["quiet_hours"] == ("22:00-07:00", "node")
    assert values["dwell_seconds"] == ("120", "class")
    assert values["battery_stop_percent"] == ("60", "default")
    assert (await admin("policy", "set", "ann", "--reset", "--json")).data["values"][1]["value"] == "80"


async def test_all_classes_are_shown_side_by_side(admin: Ctl) -> None:
    shown = await admin("policy", "show")
    head, *rows = shown.out.splitlines()
    assert head.split() == ["SETTING", "SERVER", "DESKTOP", "LAPTOP", "PHONE"]
    assert ["charging_only", "false", "false", "true", "true"] in [row.split() for row in rows]
    assert all(len(row) <= 80 for row in rows)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("policy set --class laptop battery_start_percent=120", 2, "battery_start_percent = '120': must be a whole"),
        ("policy set --class laptop battery_start_percent=60", 2, "battery_stop_percent = '60': must be below"),
        ("policy set --class laptop moon_phase=full", 2, "there is no such setting; there are charging_only"),
        ("policy set --class laptop quiet_hours", 2, "'quiet_hours' is no KEY=VALUE"),
        ("policy set --class toaster dwell_seconds=5", 2, "toaster"),
        ("policy set --class laptop", 2, "nothing is to be set"),
        ("policy set dwell_seconds=5", 2, "a policy is of one node or of one class"),
        ("policy set ann --class laptop dwell_seconds=5", 2, "a policy is of one node or of one class"),
        ("policy show ann --class laptop", 2, "a policy is of one node or of one class"),
        ("policy set nobody dwell_seconds=5", 3, "there is no node 'nobody'"),
        ("policy show nobody", 3, "there is no node 'nobody'"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_what_would(admin: Ctl, command: str, code: int, said: str) -> None:
    ended = await admin(*command.split(), "--json")
    assert (ended.code, ended.out) == (code, "")
    assert said in " ".join(ended.error["message"].split())
    assert ended.error["hint"]
