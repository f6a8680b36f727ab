"""Policies on the wire."""

from dataclasses import asdict, fields

from clusterai.policy import MachineClass, Settings
from clusterai.v1 import types_pb2 as types
from clusterai.v1.types_pb2 import PolicySettings

_NUMBERS = {
    MachineClass.SERVER: types.MACHINE_CLASS_SERVER,
    MachineClass.DESKTOP: types.MACHINE_CLASS_DESKTOP,
    MachineClass.LAPTOP: types.MACHINE_CLASS_LAPTOP,
    MachineClass.PHONE: types.MACHINE_CLASS_PHONE,
}
_CLASSES: dict[int, MachineClass] = {number: machine for machine, number in _NUMBERS.items()}


def class_to_wire(machine: MachineClass) -> types.MachineClass:
    """Return the class as the wire has it."""
    return _NUMBERS[machine]


def class_from_wire(number: int) -> MachineClass | None:
    """Return the class; None for none, and for one that this version does not know."""
    return _CLASSES.get(number)


def settings_to_wire(settings: Settings) -> PolicySettings:
    """Return the settings as the wire has them: the names are the same."""
    return PolicySettings(**asdict(settings))


def settings_from_wire(message: PolicySettings) -> Settings:
    """Return the settings of a message."""
    return Settings(**{field.name: getattr(message, field.name) for field in fields(Settings)})
