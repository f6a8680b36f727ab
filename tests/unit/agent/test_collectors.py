"""Collectors on recorded machines."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors import COLLECTORS, make_collectors
from clusterai_agent.collectors.api import NoData
from clusterai_agent.collectors.battery import BatteryCollector
from clusterai_agent.collectors.cpu import CpuCollector
from clusterai_agent.collectors.disk import DiskCollector
from clusterai_agent.collectors.memory import MemoryCollector
from clusterai_agent.collectors.network import NetworkCollector
from clusterai_agent.collectors.procfile import ProcFile
from clusterai_agent.collectors.temperature import TemperatureCollector
from clusterai_agent.nvml import Nvml

RECORDED = Path(__file__).with_name("recorded")


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Path]:
    """A /proc of our own that psutil reads."""
    before = psutil.PROCFS_PATH
    psutil.PROCFS_PATH = str(tmp_path)
    for name in ("stat", "meminfo", "vmstat"):
        (tmp_path / name).write_bytes((RECORDED / "pi4" / name).read_bytes())
    (tmp_path / "net").mkdir()
    (tmp_path / "net/dev").write_bytes((RECORDED / "pi4/net_dev").read_bytes())
    yield tmp_path
    psutil.PROCFS_PATH = before


def read(collector: object) -> Sample:
    sample = Sample()
    collector.collect(sample)  # type: ignore[attr-defined]
    return sample


def test_cpu_is_the_busy_share_between_two_readings(proc: Path) -> None:
    collector = CpuCollector(proc)
    read(collector)
    lines = (proc / "stat").read_text().splitlines()
    # cpu0: 30 more ticks of user, 70 of idle; the others rest.
    fields = lines[1].split()
    fields[1], fields[4] = str(int(fields[1]) + 30), str(int(fields[4]) + 70)
    others = [line.replace("955260", "955360") for line in lines[2:5]]
    (proc / "stat").write_text("\n".join([lines[0], " ".join(fields), *others, *lines[5:]]) + "\n")
    sample = read(collector)
    assert [round(ratio, 2) for ratio in sample.cpu_busy_ratio] == [0.3, 0.0, 0.0, 0.0]


def test_memory_and_swap_are_those_of_meminfo(proc: Path) -> None:
    sample = read(MemoryCollector(proc))
    assert sample.memory_available_bytes == 3_352_832 * 1024
    assert sample.swap_used_bytes == (102_396 - 51_196) * 1024


def test_network_counts_every_card_but_loopback_per_second(proc: Path) -> None:
    times = iter([100.0, 102.0, 104.0])
    collector = NetworkCollector(proc, clock=lambda: next(times))
    assert read(collector).network_received_bytes_per_second == 0
    text = (proc / "net/dev").read_text()
    busier = text.replace("  eth0: 1000000", "  eth0: 1004000").replace("    lo: 500", "    lo: 9500")
    (proc / "net/dev").write_text(busier)
    assert read(collector).network_received_bytes_per_second == 2000
    (proc / "net/dev").write_text(text.replace("  eth0: 1000000", "  eth0:       5"))
    assert read(collector).network_received_bytes_per_second == 0


def test_a_kernel_that_hides_its_counters_is_no_data(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    for collector in (CpuCollector(proc), NetworkCollector(proc)):
        with pytest.raises(NoData, match="hides"):
            read(collector)


def test_a_cpu_that_came_or_went_costs_one_reading(proc: Path) -> None:
    collector = CpuCollector(proc)
    text = (proc / "stat").read_text()
    (proc / "stat").write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith("cpu3")))
    assert list(read(collector).cpu_busy_ratio) == [0.0, 0.0, 0.0]


def test_the_agent_reads_what_psutil_reads_on_this_machine() -> None:
    assert len(read(CpuCollector()).cpu_busy_ratio) == len(psutil.cpu_times(percpu=True))
    assert read(MemoryCollector()).memory_available_bytes == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_of_proc_is_read_whole_and_closed_with_its_reader(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 50_000)
    before = _open_files()
    file = ProcFile(tmp_path / "long")
    assert (len(file.read()), len(file.read())) == (50_000, 50_000)
    assert _open_files() == before + 1
    del file
    assert _open_files() == before


def test_free_disk_space_is_that_of_the_directory(tmp_path: Path) -> None:
    assert 0 < read(DiskCollector(tmp_path)).disk_free_bytes <= psutil.disk_usage(str(tmp_path)).total
    assert read(DiskCollector(tmp_path / "not/yet/made")).disk_free_bytes > 0


def test_temperatures_keep_plausible_sensors_only() -> None:
    def entry(label: str, current: float | None) -> SimpleNamespace:
        return SimpleNamespace(label=label, current=current)

    chips = {"coretemp": [entry("Core 0", 51.0), entry("", 49.5)], "broken": [entry("x", -127.0), entry("y", None)]}
    sample = read(TemperatureCollector(lambda: chips))
    assert [(t.sensor, t.celsius) for t in sample.temperatures] == [("coretemp/Core 0", 51.0), ("coretemp/1", 49.5)]
    with pytest.raises(NoData, match="no temperature sensors"):
        read(TemperatureCollector(dict))


def test_a_battery_is_read_and_its_absence_is_no_data() -> None:
    sample = read(BatteryCollector(lambda: SimpleNamespace(percent=87.0, power_plugged=True)))
    assert (round(sample.battery.charge_ratio, 2), sample.battery.plugged_in) == (0.87, True)
    with pytest.raises(NoData, match="no battery"):
        read(BatteryCollector(lambda: None))


def supply(directory: Path, name: str, **files: str) -> None:
    """A power supply as /sys/class/power_supply shows one."""
    (directory / name).mkdir(parents=True)
    for file, content in files.items():
        (directory / name / file).write_text(content + "\n")


@pytest.mark.parametrize(
    ("supplies", "plugged", "unknown"),
    [
        ({"ACAD": {"type": "Mains", "online": "1"}}, True, False),
        ({"ADP1": {"type": "Mains", "online": "0"}}, False, False),
        ({"ADP1": {"type": "Mains", "online": "0"}, "ucsi": {"type": "USB", "online": "1"}}, True, False),
        ({"BAT1": {"type": "Battery", "online": "1"}, "mouse": {"type": "Battery"}}, False, True),
        ({"ADP1": {"type": "Mains", "online": "yes"}}, False, True),
        ({}, False, True),
    ],
)
def test_chargers_of_every_name_are_found(
    tmp_path: Path, supplies: dict[str, dict[str, str]], plugged: bool, unknown: bool
) -> None:
    """A battery that is full, or kept below that, says `Not charging`, which psutil takes for unknown."""
    for name, files in supplies.items():
        supply(tmp_path, name, **files)
    sample = read(BatteryCollector(lambda: SimpleNamespace(percent=80, power_plugged=None), tmp_path))
    assert (sample.battery.plugged_in, sample.battery.plugged_unknown) == (plugged, unknown)


def test_the_battery_s_temperature_is_in_tenths(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", temp="412")
    supply(tmp_path, "BAT1", type="Battery", temp="nonsense")
    sample = read(BatteryCollector(lambda: SimpleNamespace(percent=80, power_plugged=True), tmp_path))
    assert round(sample.battery.temperature_celsius, 1) == 41.2


@pytest.mark.parametrize("percent", [-1, 750, float("nan")])
def test_a_charge_that_is_none_is_no_reading(percent: float) -> None:
    with pytest.raises(ValueError, match="is no charge"):
        read(BatteryCollector(lambda: SimpleNamespace(percent=percent, power_plugged=True)))


def test_every_listed_collector_can_be_made_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    made = make_collectors(tmp_path, Nvml())
    assert len({collector.name for collector in made}) == len(COLLECTORS) == len(made)
