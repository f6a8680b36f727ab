"""Batteries that would make a node flap. They are made, each as bad as its kind can be: none was recorded.

What the policy decides on them is told by `changes`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from clusterai.policy import MachineClass, Settings, defaults
from clusterai_agent.policy.decide import Decision, Readings, decide

LAPTOP, PHONE = defaults(MachineClass.LAPTOP), defaults(MachineClass.PHONE)
NOON = 1_700_000_000 // 86400 * 86400 + 12 * 3600.0
FULL = Readings(NOON, charge=0.95, plugged_in=True, metered=False, battery_celsius=30.0)

LOOSE_PLUG = [replace(FULL, at=NOON + second, plugged_in=second // 2 % 2 == 0) for second in range(0, 4 * 3600, 2)]
WEAK_CHARGER = [
    replace(FULL, at=NOON + second, charge=0.60 + 0.005 * (second // 10 % 2)) for second in range(0, 4 * 3600, 5)
]
WARM_PALM = [
    replace(FULL, at=NOON + second, battery_celsius=37.0 + 6 * (second // 30 % 2)) for second in range(0, 4 * 3600, 5)
]
WANDERING = [
    replace(FULL, at=NOON + second, metered=second // 7 % 3 == 0, plugged_in=second // 11 % 2 == 0)
    for second in range(0, 4 * 3600, 3)
]
BUSY_HANDS = [replace(FULL, at=NOON + second, idle_seconds=second % 700) for second in range(0, 4 * 3600, 5)]
TRACES = {
    "a loose plug": (LOOSE_PLUG, LAPTOP),
    "a charger at the threshold": (WEAK_CHARGER, LAPTOP),
    "a warm hand": (WARM_PALM, PHONE),
    "between networks": (WANDERING, PHONE),
    "somebody types now and then": (BUSY_HANDS, replace(LAPTOP, idle_minutes=10)),
}


def played(trace: Iterable[Readings], policy: Settings) -> list[Decision]:
    """Decide on each reading of a trace, one after the other."""
    decisions: list[Decision] = []
    memory = None
    for readings in trace:
        decisions.append(decide(readings, policy, memory))
        memory = decisions[-1].memory
    return decisions


def changes(trace: Sequence[Readings], policy: Settings) -> list[float]:
    """When a trace changed between work and rest."""
    decided = played(trace, policy)
    pairs = zip(zip(trace, decided, strict=True), decided[1:], trace[1:], strict=False)
    return [later.at for (_, before), after, later in pairs if before.works != after.works]


def most_in_an_hour(moments: Sequence[float]) -> int:
    """The most of these moments that lie within one hour."""
    return max((sum(start <= moment < start + 3600 for moment in moments) for start in moments), default=0)
