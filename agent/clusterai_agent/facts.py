"""What this machine is: hardware, system, Pythons, GPUs, addresses."""

import contextlib
import ipaddress
import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from clusterai import __version__
from clusterai.machine import own_machine_id
from clusterai.termux import is_android
from clusterai.v1.types_pb2 import CollectorReport, NodeFacts, WorkerLimits
from clusterai_agent.addresses import local_address_towards, way_out
from clusterai_agent.collectors.api import NoData
from clusterai_agent.collectors.battery import read_battery
from clusterai_agent.config import AgentConfig, WorkerSection
from clusterai_agent.nvml import Nvml

_TEXT_LIMIT = 200
_ADDRESS_LIMIT = 32


def read_facts(config: AgentConfig, nvml: Nvml, pythons: Callable[[], Sequence[str]]) -> NodeFacts:
    """Return the facts as of now. What this system hides stays empty."""
    memory = _memory_total()
    facts = NodeFacts(
        hostname=(_phone_name() or socket.gethostname())[:_TEXT_LIMIT],
        machine_id=own_machine_id(),
        boot_id=_text("/proc/sys/kernel/random/boot_id"),
        os_name=_os_name(),
        kernel_release=os.uname().release,
        architecture=os.uname().machine,
        cpu_model=cpu_model(_text("/proc/cpuinfo", 1 << 16)),
        cpu_count=_cpu_count(),
        memory_total_bytes=memory,
        disk_total_bytes=_disk_total(config.state.compute_directory),
        agent_version=__version__,
        agent_python=platform.python_version(),
        pythons=pythons(),
        addresses=own_addresses(),
        has_battery=is_android() or read_battery() is not None,
        systemd_version=_systemd_version(),
        clock_unix_seconds=time.time(),
        worker_limits=worker_limits(config.worker, memory),
    )
    _add_gpus(facts, nvml)
    return facts


def refresh(facts: NodeFacts, absent: Iterable[tuple[str, str]] = (), server_host: str = "") -> NodeFacts:
    """Return the facts with what may have changed since they were made: clock, addresses and absent readings."""
    fresh = NodeFacts()
    fresh.CopyFrom(facts)
    fresh.clock_unix_seconds = time.time()
    del fresh.addresses[:]
    fresh.addresses.extend(own_addresses(server_host))
    fresh.absent.extend(CollectorReport(collector=name, no_data=True, reason=reason) for name, reason in absent)
    return fresh


def worker_limits(section: WorkerSection, memory_total_bytes: int) -> WorkerLimits:
    """Return what agent.toml lets workers take of this machine."""
    return WorkerLimits(
        disabled=not section.enabled,
        worker_count=section.count,
        thread_count=section.threads,
        memory_limit_bytes=int(memory_total_bytes * section.memory_fraction),
    )


def cpu_model(cpuinfo: str) -> str:
    """Return the processor's name in /proc/cpuinfo; ARM boards call it `Model` or `Hardware`."""
    fields = dict(reversed([_pair(line) for line in cpuinfo.splitlines() if ":" in line]))
    for key in ("model name", "Model", "Hardware", "cpu model", "uarch"):
        if fields.get(key):
            return fields[key][:_TEXT_LIMIT]
    return platform.machine()


def ordered(addresses: Iterable[str]) -> list[str]:
    """Return the usable IP addresses: global ones first, then private ones, IPv4 before IPv6, no loopback."""
    found = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            continue
        if not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast):
            found.append(address)
    unique = sorted(set(found), key=lambda a: (not a.is_global, a.version, a.packed))
    return [str(address) for address in unique[:_ADDRESS_LIMIT]]


def own_addresses(server_host: str = "") -> list[str]:
    """Return this machine's addresses; where the kernel hides them (Android), those that lead out and to the server."""
    try:
        cards = psutil.net_if_addrs()
    except (OSError, AttributeError):
        return ordered([way_out(), local_address_towards(server_host) if server_host else ""])
    return ordered(entry.address for entries in cards.values() for entry in entries if entry.family in _IP_FAMILIES)


_IP_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def _add_gpus(facts: NodeFacts, nvml: Nvml) -> None:
    try:
        facts.gpus.extend(nvml.facts())
    except NoData:
        return


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _text(path: str, limit: int = 256) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(limit).decode(errors="replace").strip()
    except OSError:
        return ""


def _os_name() -> str:
    if is_android():
        return f"Android {_android().release}".strip()
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")[:_TEXT_LIMIT]
    except OSError:
        return os.uname().sysname


def _phone_name() -> str:
    """The model's name: every phone's host name is localhost."""
    return _android().model if is_android() else ""


class _Android(NamedTuple):
    release: str = ""
    model: str = ""


def _android() -> _Android:
    """What Android says of itself; nothing where it does not (Python asks its C library from 3.13 on)."""
    with contextlib.suppress(AttributeError, OSError):
        version: Any = platform.android_ver()  # type: ignore[attr-defined,unused-ignore]
        return _Android(version.release, version.model)
    return _Android()


def _memory_total() -> int:
    """The memory in bytes; 0 where it is hidden."""
    with contextlib.suppress(AttributeError, OSError):
        return int(psutil.virtual_memory().total)
    return 0


def _cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _disk_total(directory: Path) -> int:
    place = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
    return shutil.disk_usage(place).total


def _systemd_version() -> str:
    """The version of the running systemd: its shared library carries it in the name, so no program is started."""
    if not Path("/run/systemd/system").is_dir():
        return ""
    for pattern in ("systemd/libsystemd-shared-*.so", "*/systemd/libsystemd-shared-*.so"):  # Debian's is multiarch
        for library in sorted(Path("/usr/lib").glob(pattern)):
            return library.stem.removeprefix("libsystemd-shared-")
    return "unknown"
