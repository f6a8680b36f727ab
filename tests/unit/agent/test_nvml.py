"""GPUs through NVML: there, partly there, gone."""

import sys
from pathlib import Path

import pytest

from clusterai.v1.types_pb2 import Sample
from clusterai_agent import nvml as module
from clusterai_agent.collectors.api import NoData
from clusterai_agent.collectors.gpu import GpuCollector
from clusterai_agent.nvml import Nvml
from support.fake_nvml import Card, FakeNvml

GIB = 1 << 30


def card(**changes: object) -> Card:
    values = {"uuid": "GPU-1", "name": "RTX 4090", "total": 24 * GIB, "used": 2 * GIB, "busy": 37}
    values |= {"celsius": 51, "milliwatts": 123_000}
    return Card(**(values | changes))  # type: ignore[arg-type]


def test_gpus_are_described_and_sampled() -> None:
    nvml = Nvml(lambda: FakeNvml(card(), card(uuid="GPU-2", name=b"old module")))
    first, second = nvml.facts()
    assert (first.index, first.uuid, first.name, first.memory_total_bytes) == (0, "GPU-1", "RTX 4090", 24 * GIB)
    assert (second.index, second.name, second.driver_version) == (1, "old module", "550.54.15")
    GpuCollector(nvml).collect(sample := Sample())
    reading = sample.gpus[0]
    assert (round(reading.busy_ratio, 2), reading.memory_used_bytes, reading.temperature_celsius) == (0.37, 2 * GIB, 51)
    assert reading.power_watts == 123


def test_what_a_card_does_not_support_is_zero_and_the_rest_is_there() -> None:
    sample = Nvml(lambda: FakeNvml(card(missing={"power", "utilization"}))).samples()[0]
    assert (sample.power_watts, sample.busy_ratio, sample.temperature_celsius) == (0, 0, 51)


def test_no_module_no_driver_and_no_card_are_no_data() -> None:
    def absent() -> FakeNvml:
        raise NoData("the module pynvml is not installed")

    for nvml in (Nvml(absent), Nvml(lambda: FakeNvml(driver=False)), Nvml(FakeNvml)):
        with pytest.raises(NoData):
            nvml.facts()


def test_a_driver_that_goes_away_and_comes_back_is_opened_again() -> None:
    fake = FakeNvml(card())
    nvml = Nvml(lambda: fake)
    nvml.samples()
    fake.driver = False
    with pytest.raises(NoData, match="Uninitialized"):
        nvml.samples()
    fake.driver = True
    assert nvml.samples()
    nvml.close()
    assert fake.opened == 0


def test_the_packages_own_copy_of_the_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setattr(module, "VENDORED", tmp_path / "none")
    with pytest.raises(NoData, match="not installed"):
        module.import_pynvml()
    (tmp_path / "pynvml.py").write_text("HERE = True\n")
    monkeypatch.setattr(module, "VENDORED", tmp_path)
    assert module.import_pynvml().HERE
    monkeypatch.delitem(sys.modules, "pynvml")
