"""Termux:API's programs as they are on phones: answers, nonsense, silence, and nothing at all."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterai.policy import MachineClass, defaults
from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors import termux_api
from clusterai_agent.collectors.api import NoData
from clusterai_agent.collectors.phone import PhoneBatteryCollector, PhoneWifiCollector
from clusterai_agent.collectors.termux_api import ApiProgram, Nonsense, Phone
from clusterai_agent.policy.decide import Decision, decide
from clusterai_agent.policy.readings import Reader

# As termux-battery-status and termux-wifi-connectioninfo print it.
CHARGING = """{
  "present": true, "technology": "Li-ion", "health": "GOOD", "plugged": "PLUGGED_AC", "status": "CHARGING",
  "temperature": 29.3, "voltage": 4211, "current": 512, "percentage": 85, "level": 85, "scale": 100
}"""
ON_WIFI = """{
  "bssid": "02:00:00:00:00:00", "frequency_mhz": 5180, "ip": "192.168.1.23", "link_speed_mbps": 433,
  "mac_address": "02:00:00:00:00:00", "network_id": -1, "rssi": -52, "ssid": "<unknown ssid>", "ssid_hidden": true,
  "supplicant_state": "COMPLETED"
}"""
OFF_WIFI = """{"ip": "0.0.0.0", "rssi": -127, "supplicant_state": "DISCONNECTED"}"""


class PlayedPhone:
    """Programs that do what a test says, and note how often they were started."""

    def __init__(self, prefix: Path) -> None:
        self._bin = prefix / "bin"
        self._bin.mkdir(parents=True)
        self.phone = Phone(prefix)

    def plays(self, name: str, script: str) -> None:
        """Let the program run these lines of shell."""
        file = self._bin / name
        file.write_text(f"#!/bin/sh\necho x >> {self._bin}/{name}.runs\n{script}\n")
        file.chmod(0o755)

    def says(self, battery: str = CHARGING, wifi: str = ON_WIFI) -> None:
        """Let both print this."""
        self.plays("termux-battery-status", f"cat <<'EOF'\n{battery}\nEOF")
        self.plays("termux-wifi-connectioninfo", f"cat <<'EOF'\n{wifi}\nEOF")

    def runs(self, name: str) -> int:
        """Return how often it was started."""
        file = self._bin / f"{name}.runs"
        return len(file.read_text().splitlines()) if file.exists() else 0

    async def decision(self) -> Decision:
        """Return what a phone's default policy says now."""
        settings = defaults(MachineClass.PHONE)
        return decide(await Reader(phone=self.phone).read(settings, None), settings, None)


@pytest.fixture
def played(tmp_path: Path) -> PlayedPhone:
    return PlayedPhone(tmp_path)


def battery_of(program: ApiProgram) -> Sample:
    sample = Sample()
    PhoneBatteryCollector(program).collect(sample)
    return sample


def wifi_of(program: ApiProgram) -> Sample:
    sample = Sample()
    PhoneWifiCollector(program).collect(sample)
    return sample


def test_the_battery_is_read(played: PlayedPhone) -> None:
    played.says()
    battery = battery_of(played.phone.battery).battery
    assert (round(battery.charge_ratio, 2), battery.plugged_in, battery.plugged_unknown) == (0.85, True, False)
    assert round(battery.temperature_celsius, 1) == 29.3


def test_wifi_is_read_and_no_name_of_a_network_is_told(played: PlayedPhone) -> None:
    played.says()
    sample = wifi_of(played.phone.wifi)
    assert (sample.wifi.connected, sample.wifi.signal_dbm) == (True, -52)
    assert b"ssid" not in sample.SerializeToString()


@pytest.mark.parametrize(
    ("text", "plugged"),
    [
        ('{"percentage": 50, "status": "DISCHARGING"}', False),
        ('{"percentage": 50, "status": "CHARGING", "plugged": null}', True),
        ('{"percentage": 50, "plugged": "UNPLUGGED", "status": "CHARGING"}', False),
        ('{"percentage": 50}', None),
        ('{"percentage": 50, "status": ["CHARGING"]}', None),
    ],
)
def test_fields_may_be_missing(played: PlayedPhone, text: str, plugged: bool | None) -> None:
    played.says(text)
    battery = battery_of(played.phone.battery).battery
    assert (None if battery.plugged_unknown else battery.plugged_in) is plugged
    assert battery.temperature_celsius == 0, "0 is unknown (types.proto)"


@pytest.mark.parametrize("percent", ["101", "-1", '"85"', "null", "true", "NaN", "1e400", "{}"])
def test_a_charge_that_is_none_is_refused(played: PlayedPhone, percent: str) -> None:
    played.says(f'{{"percentage": {percent}, "plugged": "PLUGGED_AC"}}')
    with pytest.raises(Nonsense, match="tells no charge"):
        battery_of(played.phone.battery)


@pytest.mark.parametrize("text", ["[]", "{", "Error: no permission", "85", "\x00\xff" * 10])
async def test_what_is_no_answer_makes_the_phone_rest(played: PlayedPhone, text: str) -> None:
    played.says(text)
    with pytest.raises(NoData, match="termux-battery-status: not"):
        battery_of(played.phone.battery)
    assert (await played.decision()).code == "battery-unknown"


async def test_a_phone_that_charges_on_wifi_works(played: PlayedPhone) -> None:
    played.says()
    assert (await played.decision()).works


async def test_a_phone_off_wifi_rests_because_the_network_is_metered(played: PlayedPhone) -> None:
    played.says(wifi=OFF_WIFI)
    assert (await played.decision()).code == "metered"


async def test_a_phone_without_termux_api_rests_and_says_what_is_missing(tmp_path: Path) -> None:
    phone = PlayedPhone(tmp_path)
    decision = await phone.decision()
    assert (decision.works, decision.code) == (False, "battery-unknown")
    with pytest.raises(NoData, match=r"install its app, and `pkg install termux-api`"):
        battery_of(phone.phone.battery)


def test_a_program_that_hangs_is_killed_with_its_children(
    played: PlayedPhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(termux_api, "ANSWER_SECONDS", 0.5)
    pids = tmp_path / "pids"
    played.plays("termux-battery-status", f"sleep 600 & echo $! > {pids}; echo $$ >> {pids}; wait")
    began = time.monotonic()
    with pytest.raises(NoData, match=r"no answer within 0.5 s; is the app Termux:API installed\?"):
        battery_of(played.phone.battery)
    assert time.monotonic() - began < 10
    for process_id in map(int, pids.read_text().split()):
        assert gone(process_id)


def gone(process_id: int) -> bool:
    """Wait for an orphan's end: its new parent reaps it."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                time.sleep(0.05)
                continue
        return True
    os.kill(process_id, 9)
    return False


def test_an_answer_without_end_is_cut(played: PlayedPhone) -> None:
    played.plays("termux-battery-status", "exec yes")
    with pytest.raises(NoData, match="not JSON"):
        battery_of(played.phone.battery)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clocked(played: PlayedPhone, tmp_path: Path) -> Callable[[], tuple[ApiProgram, Clock]]:
    def made() -> tuple[ApiProgram, Clock]:
        clock = Clock()
        return ApiProgram(tmp_path / "bin/termux-battery-status", clock), clock

    return made


def test_asking_often_starts_the_program_seldom(
    played: PlayedPhone, clocked: Callable[[], tuple[ApiProgram, Clock]]
) -> None:
    played.says()
    program, clock = clocked()
    for second in range(120):
        clock.now = 1000.0 + second
        program.read()
    assert played.runs("termux-battery-status") == 4


def test_an_answer_counts_for_a_minute_when_later_ones_fail(
    played: PlayedPhone, clocked: Callable[[], tuple[ApiProgram, Clock]]
) -> None:
    played.says()
    program, clock = clocked()
    assert program.read()["percentage"] == 85
    played.says("nonsense")
    clock.now += 59
    assert program.read()["percentage"] == 85
    clock.now += 2
    with pytest.raises(NoData):
        program.read()
    played.says()
    clock.now += 30
    assert program.read()["percentage"] == 85, "it is well again"


async def test_a_phone_at_work_hears_soon_that_it_was_unplugged(played: PlayedPhone) -> None:
    played.phone.set_pace(working=True)
    assert played.phone.battery.pace_seconds <= 5
    played.phone.set_pace(working=False)
    assert played.phone.battery.pace_seconds >= 30
