"""Which class a machine is of, from its chassis, its battery and what agent.toml says."""

from pathlib import Path

import pytest

from clusterai.policy import MachineClass
from clusterai_agent.config import AgentConfig, PolicySection, ServerSection
from clusterai_agent.policy.machine import class_of, machine_class


@pytest.mark.parametrize(
    ("chassis", "has_battery", "platform", "machine"),
    [
        (10, True, "linux", MachineClass.LAPTOP),
        (10, False, "linux", MachineClass.LAPTOP),
        (31, True, "linux", MachineClass.LAPTOP),
        (3, False, "linux", MachineClass.DESKTOP),
        (35, True, "linux", MachineClass.DESKTOP),
        (23, True, "linux", MachineClass.SERVER),
        (1, False, "linux", MachineClass.SERVER),
        (0, False, "linux", MachineClass.SERVER),
        (0, True, "linux", MachineClass.LAPTOP),
        (99, True, "linux", MachineClass.LAPTOP),
        (10, True, "android", MachineClass.PHONE),
    ],
)
def test_the_machine_shows_what_it_is(chassis: int, has_battery: bool, platform: str, machine: MachineClass) -> None:
    assert class_of(chassis, has_battery=has_battery, platform=platform) is machine


def away(directory: Path, **others: object) -> AgentConfig:
    """The configuration of a machine on which no daemon lives."""
    return AgentConfig(server=ServerSection(local_token_file=directory / "none/token"), **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["10\n", "010", "10"])
def test_the_chassis_is_read_where_it_can_be(tmp_path: Path, text: str) -> None:
    (tmp_path / "chassis").write_text(text)
    assert machine_class(away(tmp_path), has_battery=False, chassis_file=tmp_path / "chassis") is MachineClass.LAPTOP


@pytest.mark.parametrize("text", ["", "laptop", "-10", "10x", "٣"])
def test_a_chassis_that_says_nothing_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "chassis").write_text(text)
    assert machine_class(away(tmp_path), has_battery=False, chassis_file=tmp_path / "chassis") is MachineClass.SERVER
    assert machine_class(away(tmp_path), has_battery=True, chassis_file=tmp_path / "none") is MachineClass.LAPTOP


def test_the_cluster_s_own_server_is_one_even_if_it_is_a_laptop(tmp_path: Path) -> None:
    (tmp_path / "chassis").write_text("10")
    here = AgentConfig(server=ServerSection(local_token_file=tmp_path / "token"))
    loopback = away(tmp_path, node=AgentConfig().node)
    assert machine_class(here, has_battery=True, chassis_file=tmp_path / "chassis") is MachineClass.SERVER
    assert machine_class(loopback, has_battery=True, chassis_file=tmp_path / "chassis") is MachineClass.LAPTOP


def test_agent_toml_has_the_last_word(tmp_path: Path) -> None:
    config = away(tmp_path, policy=PolicySection(MachineClass.DESKTOP))
    assert machine_class(config, has_battery=True) is MachineClass.DESKTOP
