"""What class of machine this is."""

import sys
from pathlib import Path

from clusterai.policy import MachineClass
from clusterai_agent.config import AgentConfig

# SMBIOS 3.7, 7.4.1 "System Enclosure or Chassis Types".
_LAPTOPS = frozenset({8, 9, 10, 11, 14, 30, 31, 32})
_DESKTOPS = frozenset({3, 4, 5, 6, 7, 13, 15, 16, 24, 34, 35, 36})
_SERVERS = frozenset({17, 23, 25, 28, 29})
_CHASSIS = Path("/sys/class/dmi/id/chassis_type")


def machine_class(config: AgentConfig, *, has_battery: bool, chassis_file: Path = _CHASSIS) -> MachineClass:
    """Return what agent.toml says; else a server where the cluster's daemon lives; else what the machine shows."""
    if config.policy.machine_class is not None:
        return config.policy.machine_class
    if config.server.is_local or config.server.local_token_file.parent.is_dir():
        return MachineClass.SERVER
    return class_of(_chassis(chassis_file), has_battery=has_battery, platform=sys.platform)


def class_of(chassis: int, *, has_battery: bool, platform: str) -> MachineClass:
    """Return the class by the chassis type; 0 or another one: a battery makes a laptop, none a server."""
    if platform == "android":
        return MachineClass.PHONE
    if chassis in _SERVERS:
        return MachineClass.SERVER
    if chassis in _DESKTOPS:
        return MachineClass.DESKTOP
    return MachineClass.LAPTOP if has_battery or chassis in _LAPTOPS else MachineClass.SERVER


def _chassis(file: Path) -> int:
    try:
        text = file.read_text(errors="replace")[:8].strip()
    except OSError:
        return 0
    return int(text) if text.isascii() and text.isdecimal() else 0
