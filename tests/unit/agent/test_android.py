"""The agent's parts where Android denies what Linux allows: each lacks its own reading, and nothing else."""

import ctypes
import os
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from clusterai.errors import ClusterAIError
from clusterai.policy import MachineClass
from clusterai.pythons import available_minors
from clusterai.v1.types_pb2 import Sample
from clusterai_agent.collectors import make_collectors
from clusterai_agent.collectors.cpu import CpuCollector
from clusterai_agent.collectors.termux_api import Phone
from clusterai_agent.config import AgentConfig, BackEnd, load_config
from clusterai_agent.errors import NotJoined, WrongTermux, check_termux
from clusterai_agent.facts import own_addresses, read_facts, refresh
from clusterai_agent.nvml import Nvml, import_pynvml
from clusterai_agent.policy.machine import machine_class
from clusterai_agent.sampling import Sampler, read_into
from support.tree import ROOT


def denied(*_: object, **__: object) -> NoReturn:
    """What psutil raises there: PermissionError itself, not its own AccessDenied."""
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Python and psutil as they are in Termux; the prefix is a directory of the test's."""
    monkeypatch.setattr(sys, "platform", "android")
    monkeypatch.setenv("PREFIX", str(tmp_path / "usr"))
    for name in ("cpu_percent", "cpu_times", "boot_time", "sensors_battery", "net_if_addrs", "swap_memory"):
        monkeypatch.setattr(psutil, name, denied)
    monkeypatch.delattr(os, "getloadavg")
    opened = os.open
    hidden = {"/proc/stat", "/proc/loadavg", "/proc/uptime", "/proc/net/dev", "/proc/vmstat"}

    def open_(path: Any, *rest: Any, **more: Any) -> int:
        if str(path) in hidden:
            denied()
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", open_)
    (tmp_path / "usr/bin").mkdir(parents=True)
    return tmp_path / "usr"


def test_what_android_hides_is_absent_and_named_and_the_rest_is_read(prefix: Path, tmp_path: Path) -> None:
    sampler = Sampler(make_collectors(tmp_path, Nvml(import_pynvml), Phone(prefix)))
    for slow in sampler._slow:
        read_into(slow.collector, slow.latest)
    sample = sampler.sample()
    assert not list(sample.cpu_busy_ratio)
    assert not sample.HasField("battery")
    assert not sample.HasField("wifi")
    assert list(sample.collectors) == [], "what Android denies is no error"
    assert sample.memory_available_bytes > 1 << 20
    assert sample.disk_free_bytes > 0
    absent = dict(sampler.absent)
    assert absent["cpu"] == "the kernel hides /proc/stat from this user"
    assert absent["network"] == "the kernel hides /proc/net/dev from this user"
    assert "pkg install termux-api" in absent["battery"]
    assert {"gpu", "memory", "disk"} & set(absent) == set()


def test_the_load_comes_from_the_kernel_itself(prefix: Path, tmp_path: Path) -> None:
    class Info(ctypes.Structure):
        _fields_ = (("uptime", ctypes.c_long), ("loads", ctypes.c_ulong * 3), ("rest", ctypes.c_char * 400))

    info = Info()
    assert ctypes.CDLL(None).sysinfo(ctypes.byref(info)) == 0
    sample = Sample()
    read_into(CpuCollector(), sample)
    assert sample.load_1min == pytest.approx(info.loads[0] / 65536, abs=1.0)


def test_facts_are_those_of_a_phone(prefix: Path) -> None:
    config = AgentConfig()
    facts = read_facts(config, Nvml(import_pynvml), available_minors)
    assert (facts.has_battery, list(facts.gpus), facts.systemd_version) == (True, [], "")
    assert facts.os_name.startswith("Android")
    assert facts.kernel_release == os.uname().release
    assert list(facts.pythons) == [f"3.{sys.version_info[1]}"], "a phone computes with the Python that it has"
    assert (facts.worker_limits.worker_count, facts.worker_limits.disabled) == (1, False)
    assert facts.worker_limits.memory_limit_bytes == facts.memory_total_bytes // 2
    assert machine_class(config, has_battery=True, chassis_file=Path("/nowhere")) is MachineClass.PHONE
    told = refresh(facts, [("cpu", "hidden")]).absent
    assert [(one.collector, one.reason, one.no_data) for one in told] == [("cpu", "hidden", True)]


def test_the_name_of_a_phone_is_its_model(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import platform
    from types import SimpleNamespace

    version = SimpleNamespace(release="15", model="Pixel 7")
    monkeypatch.setattr(platform, "android_ver", lambda: version, raising=False)
    facts = read_facts(AgentConfig(), Nvml(import_pynvml), available_minors)
    assert (facts.hostname, facts.os_name) == ("Pixel 7", "Android 15")


def test_without_netlink_the_address_towards_the_server_is_known(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    class Routed(real):  # type: ignore[valid-type,misc]
        """A phone on Wi-Fi whose cable-less network has one server and no way out."""

        def connect(self, address: tuple[str, int]) -> None:
            if address[0] != "192.168.1.10":
                raise OSError(101, "Network is unreachable")

        def getsockname(self) -> tuple[str, int]:
            return ("192.168.1.23", 40000)

    monkeypatch.setattr(socket, "socket", Routed)
    assert own_addresses("192.168.1.10") == ["192.168.1.23"]
    assert own_addresses() == []


def test_paths_and_defaults_are_those_of_termux(prefix: Path) -> None:
    config = load_config(None)
    state = config.state
    assert state.directory == prefix / "var/lib/clusterai-agent"
    assert state.compute_directory == prefix / "var/lib/clusterai-compute"
    assert state.shown_in == prefix / "var/run/clusterai"
    assert str(state.scratch_directory).startswith(str(prefix))
    assert str(state.gate).startswith(str(prefix))
    assert (config.units.back_end, config.units.stop_on_exit) == (BackEnd.PROCESS, True)
    assert (config.worker.count, config.worker.memory_fraction, config.ollama.enabled) == (1, 0.5, False)


def test_the_shipped_agent_toml_shows_a_phone_s_defaults(prefix: Path) -> None:
    """Every key of it stands there as a comment; taken in, they must change nothing."""
    shipped = (ROOT / "packaging/termux/clusterai-agent/usr/etc/clusterai/agent.toml").read_text()
    defaults, file = load_config(None), prefix / "etc/clusterai/agent.toml"
    file.parent.mkdir(parents=True)
    file.write_text(re.sub(r"(?m)^#(?=\w+ = )", "", shipped))
    shown = load_config(None)
    assert re.findall(r"(?m)^#\w+ = ", shipped)
    assert replace(shown, policy=defaults.policy) == defaults
    assert shown.policy.machine_class is MachineClass.PHONE


def test_agent_toml_lies_below_the_prefix(prefix: Path) -> None:
    file = prefix / "etc/clusterai/agent.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[worker]\nmemory_fraction = 0.25\n")
    assert load_config(None).worker.memory_fraction == 0.25
    file.write_text("[worker]\nmemory_fraction = 7\n")
    with pytest.raises(ClusterAIError, match=f"{file}: worker.memory_fraction = 7"):
        load_config(None)


def test_elsewhere_nothing_of_this_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIX", "/opt/conda")
    monkeypatch.setenv("TERMUX_VERSION", "googleplay.2025.01.18")
    assert AgentConfig().state.directory == Path("/var/lib/clusterai-agent")
    assert AgentConfig().units.back_end is BackEnd.SYSTEMD
    check_termux()


@pytest.mark.parametrize(
    ("name", "value"), [("TERMUX_VERSION", "googleplay.2025.01.18"), ("TERMUX_APK_RELEASE", "GOOGLE_PLAYSTORE")]
)
def test_the_termux_of_google_play_is_refused(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    check_termux()
    monkeypatch.setenv(name, value)
    with pytest.raises(WrongTermux) as refused:
        check_termux()
    assert "F-Droid" in refused.value.advice


def test_a_phone_is_not_told_to_use_sudo(prefix: Path) -> None:
    assert "sudo" not in NotJoined(prefix).advice
