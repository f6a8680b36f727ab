"""`clusteractl policy`: when nodes work and when they rest."""

from typing import Any

import click

from clusteractl.command import Ctl, CtlGroup, pass_ctl
from clusteractl.complete import node_names
from clusteractl.errors import NothingToSet, WhosePolicy
from clusteractl.inputs import ASSIGNMENT
from clusteractl.shape import shape
from clusteractl.views.policies import policy_classes, policy_page
from clusterai.ids import parse_node_id
from clusterai.policy import KEYS, MachineClass
from clusterai.v1 import policy_pb2 as pb
from clusterai.v1 import types_pb2 as types

_EXAMPLES = "clusteractl policy show\nclusteractl policy show ann-laptop\nclusteractl policy show --class laptop"
_SET_EXAMPLES = """
clusteractl policy set ann-laptop quiet_hours=22:00-07:00
clusteractl policy set --class laptop battery_start_percent=90 battery_stop_percent=70
clusteractl policy set ann-laptop charging_only=false
clusteractl policy set ann-laptop --reset
"""
_CLASS = click.Choice([machine.value for machine in MachineClass])


@click.group(cls=CtlGroup, examples=_EXAMPLES)
def policy() -> None:
    """Show and set when nodes work and when they rest."""


@policy.command(examples=_EXAMPLES)
@click.argument("name", default="", shell_complete=node_names)
@click.option("--class", "machine", type=_CLASS, help="Show what holds for this class of machines.")
@pass_ctl
def show(ctl: Ctl, name: str, machine: str | None) -> None:
    """Show the policy of the node NAME, of a class, or of all classes."""
    if name and machine:
        raise WhosePolicy
    request = pb.ShowPolicyRequest(**_scope(name, machine))

    async def fetch() -> pb.ShowPolicyResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call("PolicyService/ShowPolicy", request, pb.ShowPolicyResponse)

    reply = ctl.run(fetch())
    one = len(reply.policies) == 1
    ctl.out.show(shape(reply), policy_page(reply.policies[0], ctl.out.width) if one else policy_classes(reply.policies))


@policy.command("set", examples=_SET_EXAMPLES)
@click.argument("words", nargs=-1, metavar="[NAME] [KEY=VALUE]...", shell_complete=node_names)
@click.option("--class", "machine", type=_CLASS, help="Set it for this class of machines.")
@click.option("--reset", is_flag=True, help="First forget what was set here before.")
@pass_ctl
def set_policy(ctl: Ctl, words: tuple[str, ...], machine: str | None, reset: bool) -> None:
    """Set the policy of the node NAME or of a class: all values at once, or none.

    What is set for a node counts before what is set for its class. `clusteractl policy show` lists the keys.
    """
    name = words[0] if words and "=" not in words[0] and words[0] not in KEYS else ""
    if bool(name) == bool(machine):
        raise WhosePolicy
    values = dict(ASSIGNMENT.convert(word, None, None) for word in words[bool(name) :])
    if not values and not reset:
        raise NothingToSet
    request = pb.SetPolicyRequest(**_scope(name, machine), values=values, reset=reset)

    async def send() -> pb.SetPolicyResponse:
        async with ctl.cluster() as cluster:
            return await cluster.call("PolicyService/SetPolicy", request, pb.SetPolicyResponse)

    reply = ctl.run(send())
    ctl.out.show(shape(reply.policy), policy_page(reply.policy, ctl.out.width))


def _scope(name: str, machine: str | None) -> dict[str, Any]:
    if machine:
        return {"machine_class": types.MachineClass.Value(f"MACHINE_CLASS_{machine.upper()}")}
    return {"node_id": parse_node_id(name)} if name else {}
