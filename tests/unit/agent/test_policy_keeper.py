"""The agent's policy on a machine whose sensors the test plays: what it reads, remembers and tells."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterai.files import CannotWrite
from clusterai.policy import MachineClass, Settings
from clusterai.policy_wire import settings_to_wire
from clusterai.v1.node_pb2 import NodeSpec
from clusterai.v1.types_pb2 import POLICY_STATE_RESTING, POLICY_STATE_WORKING, Sample, TemperatureSample
from clusterai_agent.config import AgentConfig, StateSection
from clusterai_agent.home import Home
from clusterai_agent.policy import readings
from clusterai_agent.policy.decide import Pause
from clusterai_agent.policy.keeper import PolicyKeeper
from clusterai_agent.policy.pause import BadPause, NoBattery, parse_span, pause, read_pause
from clusterai_agent.policy.readings import Reader, readings_of


class PlayedBattery:
    """A battery that shows what it is told."""

    name, every_seconds = "battery", 30.0

    def __init__(self, charge: float = 0.95, *, plugged: bool = True) -> None:
        self.charge, self.plugged, self.reads = charge, plugged, 0

    def collect(self, sample: Sample) -> None:
        self.reads += 1
        sample.battery.charge_ratio, sample.battery.plugged_in = self.charge, self.plugged


def keeper(directory: Path, battery: PlayedBattery, machine: MachineClass = MachineClass.LAPTOP) -> PolicyKeeper:
    return PolicyKeeper(Home(directory), machine, Reader(battery))


async def test_it_says_once_that_the_battery_is_left_alone(tmp_path: Path) -> None:
    battery = PlayedBattery()
    kept = keeper(tmp_path, battery)
    assert await kept.look()
    assert kept.status.state == POLICY_STATE_WORKING
    assert not await kept.look(), "nothing new to tell"
    battery.plugged = False
    assert await kept.look()
    assert kept.status.state == POLICY_STATE_RESTING
    assert (kept.status.reason_code, kept.status.reason) == (
        "on-battery", "on battery, 95 %; works from 80 % while charging",
    )  # fmt: skip


async def test_a_rest_is_overdue_when_the_server_s_deadline_is_long_over(tmp_path: Path) -> None:
    battery = PlayedBattery()
    kept = keeper(tmp_path, battery)
    await kept.look()
    assert not kept.rest_is_overdue(time.time() + 1e6), "it works"
    battery.plugged = False
    await kept.look()
    assert not kept.rest_is_overdue(time.time() + 300), "its work has 300 s to leave"
    assert kept.rest_is_overdue(time.time() + 330)


async def test_a_machine_that_always_works_reads_nothing(tmp_path: Path) -> None:
    battery = PlayedBattery(0.01, plugged=False)
    kept = keeper(tmp_path, battery, MachineClass.DESKTOP)
    await kept.look()
    assert kept.status.state == POLICY_STATE_WORKING
    assert battery.reads == 0


async def test_an_agent_that_is_killed_goes_on_as_before(tmp_path: Path) -> None:
    battery = PlayedBattery(0.85)
    first = keeper(tmp_path, battery)
    first.want(NodeSpec(policy=settings_to_wire(Settings(battery_start_percent=80, battery_stop_percent=60))))
    await first.look()
    battery.charge = 0.70
    await first.look()
    second = keeper(tmp_path, battery)
    await second.look()
    assert second.status == first.status, "between the thresholds it works on, by the server's settings"
    battery.charge = 0.55
    await second.look()
    battery.charge = 0.70
    third = keeper(tmp_path, battery)
    await third.look()
    assert (third.status.state, third.status.reason_code) == (POLICY_STATE_RESTING, "battery-low")
    assert third.status.since_unix_seconds == second.status.since_unix_seconds


async def test_a_machine_that_became_one_of_another_class_begins_anew(tmp_path: Path) -> None:
    battery = PlayedBattery(0.7)
    await keeper(tmp_path, battery).look()
    server = keeper(tmp_path, battery, MachineClass.SERVER)
    await server.look()
    assert server.status.state == POLICY_STATE_WORKING


GOOD = {"works": True, "since": 1.0, "low": False, "hot": False, "cpu_hot": False, "changes": [1.0]}


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "{}", '{"settings": 5}', '{"settings": {}, "memory": 5}', "\udcff", "x" * (1 << 21),
        *(json.dumps({"settings": {}, "memory": GOOD | bad}) for bad in (
            {"since": "x"}, {"since": float("nan")}, {"changes": 5}, {"changes": [None]}, {"changes": [1.0] * 9},
            {"works": 1}, {"more": 1},
        )),
    ],
)  # fmt: skip
async def test_a_damaged_memory_is_left_for_the_defaults(tmp_path: Path, content: str) -> None:
    (tmp_path / "policy.json").write_text(content, errors="surrogateescape")
    kept = keeper(tmp_path, PlayedBattery())
    await kept.look()
    assert kept.status.state == POLICY_STATE_WORKING
    assert json.loads((tmp_path / "policy.json").read_text())["memory"]["works"] is True


async def test_a_directory_that_cannot_be_written_costs_only_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = keeper(tmp_path / "gone", PlayedBattery())
    await kept.look()
    await kept.look()
    assert kept.status.state == POLICY_STATE_WORKING
    assert caplog.text.count("cannot write") == 1


async def test_the_server_s_settings_count_at_once(tmp_path: Path) -> None:
    kept = keeper(tmp_path, PlayedBattery(0.5, plugged=False))
    told = asyncio.Event()
    running = asyncio.create_task(kept.run(told.set))
    await asyncio.wait_for(told.wait(), 60)
    told.clear()
    began = time.monotonic()
    kept.want(NodeSpec(policy=settings_to_wire(Settings(dwell_seconds=0))))
    await asyncio.wait_for(told.wait(), 60)
    assert kept.status.state == POLICY_STATE_WORKING
    assert time.monotonic() - began < 1.9, "it did not wait for its next look"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_server_that_knows_no_policy_leaves_the_defaults_of_the_class(tmp_path: Path) -> None:
    kept = keeper(tmp_path, PlayedBattery(0.5, plugged=False))
    kept.want(NodeSpec())
    await kept.look()
    assert kept.status.reason_code == "on-battery"


async def test_a_pause_ends_by_itself_and_takes_its_file_along(tmp_path: Path) -> None:
    kept, file = keeper(tmp_path, PlayedBattery(), MachineClass.SERVER), tmp_path / "pause.json"
    file.write_text(json.dumps({"until_unix_seconds": time.time() + 3600}))
    await kept.look()
    assert kept.status.reason_code == "paused"
    file.write_text(json.dumps({"until_unix_seconds": time.time() - 1}))
    await kept.look()
    assert not file.exists()


async def test_a_pause_until_it_is_charged_reads_the_battery_of_any_machine(tmp_path: Path) -> None:
    battery = PlayedBattery(0.5)
    kept, file = keeper(tmp_path, battery, MachineClass.SERVER), tmp_path / "pause.json"
    file.write_text('{"until_charged": true}')
    await kept.look()
    assert kept.status.reason == "paused by its owner until the battery is charged to 80 %"
    battery.charge = 0.8
    await kept.look()
    assert not file.exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"until_unix_seconds": "soon"}', '{"until_unix_seconds": NaN}', '{"until_charged": 3}']
)
async def test_a_pause_that_cannot_be_read_is_one_all_the_same(tmp_path: Path, content: str) -> None:
    (tmp_path / "pause.json").write_text(content)
    kept = keeper(tmp_path, PlayedBattery())
    await kept.look()
    assert kept.status.reason_code == "paused"
    assert "clusterai-agent resume" in kept.status.reason


def test_without_a_file_there_is_no_pause(tmp_path: Path) -> None:
    assert read_pause(tmp_path / "pause.json") is None


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("2h", 7200), ("30d", 2592000)])
def test_a_pause_is_written_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "0h", "31d", "2 h", "-2h", "٢h", "99999999h", "2h\n", "until charged"])
def test_another_text_is_no_time_to_pause_for(text: str) -> None:
    with pytest.raises(BadPause):
        parse_span(text)


async def test_a_machine_without_a_battery_cannot_wait_for_it(tmp_path: Path) -> None:
    config = AgentConfig(state=StateSection(directory=tmp_path))
    with pytest.raises(NoBattery):
        await pause(config, "until-charged", lambda: None)
    await pause(config, "until-charged", lambda: 5)
    assert read_pause(tmp_path / "pause.json") == Pause(until_charged=True)


async def test_who_may_not_pause_is_told_where_it_would_be_written(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match=r"pause\.json"):
        await pause(AgentConfig(state=StateSection(directory=tmp_path / "none")), "2h")


async def test_a_sensor_that_hangs_is_unknown_and_asked_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "_PATIENCE_SECONDS", 0.05)
    released, battery = threading.Event(), PlayedBattery()
    collect: Callable[[Sample], None] = battery.collect

    def hang(sample: Sample) -> None:
        collect(sample)
        released.wait(60)

    battery.collect = hang  # type: ignore[method-assign]
    phone = keeper(tmp_path, battery, MachineClass.PHONE)
    await phone.look()
    await phone.look()
    assert (phone.status.reason_code, battery.reads) == ("battery-unknown", 1)
    released.set()
    monkeypatch.setattr(readings, "_PATIENCE_SECONDS", 60.0)
    await phone.look()
    assert phone.status.reason_code == "network-unknown"


def test_only_the_processor_s_sensors_count_as_its_temperature() -> None:
    sensors = [("nvme/0", 90.0), ("acpitz/0", 99.0), ("coretemp/Core 1", 71.0), ("coretemp/Package id 0", 73.0)]
    sample = Sample(temperatures=[TemperatureSample(sensor=name, celsius=celsius) for name, celsius in sensors])
    assert readings_of(sample, None, 1.0, 0.0).cpu_celsius == 73
    assert readings_of(Sample(), None, 1.0, 0.0).cpu_celsius is None
