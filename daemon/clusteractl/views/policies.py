"""Policies as a person sees them."""

from collections.abc import Sequence

from clusteractl.output import Block, paragraph
from clusteractl.tables import Column, Table
from clusteractl.words import UNKNOWN, word
from clusterai.v1.policy_pb2 import Policy, PolicySource
from clusterai.v1.types_pb2 import MachineClass, PolicyState

_OLD = "Its agent is too old to know a policy: it always works."


def policy_page(policy: Policy, width: int) -> list[Block]:
    """One policy: what it says now, and every setting with where its value comes from."""
    columns = (Column("SETTING", keep=True), Column("VALUE", keep=True), Column("FROM", keep=True))
    rows = tuple((one.key, one.value, word(PolicySource, one.source)) for one in policy.values)
    return [*_head(policy, width), "", Table(columns, rows)]


def policy_classes(policies: Sequence[Policy]) -> list[Block]:
    """All classes side by side: one row a setting."""
    names = [word(MachineClass, policy.machine_class) for policy in policies]
    columns = (Column("SETTING", keep=True), *(Column(name.upper(), keep=True) for name in names))
    by_key: dict[str, list[str]] = {}
    for policy in policies:
        for one in policy.values:
            by_key.setdefault(one.key, []).append(one.value)
    return [Table(columns, tuple((key, *values) for key, values in by_key.items()))]


def _head(policy: Policy, width: int) -> list[Block]:
    machine = word(MachineClass, policy.machine_class)
    if not policy.node_id:
        return [f"Machines of class {machine}"]
    if machine == UNKNOWN:
        return [policy.node_id, paragraph(_OLD, indent="  ", width=width)]
    if not policy.HasField("status"):
        return [f"{policy.node_id} is a {machine}"]
    state, reason = word(PolicyState, policy.status.state), policy.status.reason
    lines: list[Block] = [f"{policy.node_id} is a {machine}, {state}"]
    return [*lines, paragraph(reason, indent="  ", width=width)] if reason else lines
