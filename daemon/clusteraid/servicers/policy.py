"""PolicyService: when nodes work and when they rest, for operators."""

from typing import Any

from clusterai.errors import BadRequest
from clusterai.policy import KEYS, MachineClass, written
from clusterai.policy_wire import class_from_wire, class_to_wire
from clusterai.v1 import policy_pb2 as pb
from clusterai.v1 import types_pb2 as types
from clusterai.v1.policy_pb2_grpc import PolicyServiceServicer
from clusteraid.access import CURRENT_CALLER
from clusteraid.policies import Policies, Shown
from clusteraid.store_policies import Scope


class PolicyServicer(PolicyServiceServicer):
    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def ShowPolicy(self, request: pb.ShowPolicyRequest, context: Any) -> pb.ShowPolicyResponse:
        if not request.node_id and not request.machine_class:
            shown = [self._policies.of_class(machine) for machine in MachineClass]
        else:
            shown = [self._of(_scope(request.node_id, request.machine_class))]
        return pb.ShowPolicyResponse(policies=map(_to_wire, shown))

    async def SetPolicy(self, request: pb.SetPolicyRequest, context: Any) -> pb.SetPolicyResponse:
        scope = _scope(request.node_id, request.machine_class)
        if not request.values and not request.reset:
            raise BadRequest(what="policy", reason="nothing is to be changed")
        by = CURRENT_CALLER.get().name
        await self._policies.change(scope, dict(request.values), reset=request.reset, by=by)
        return pb.SetPolicyResponse(policy=_to_wire(self._of(scope)))

    def _of(self, scope: Scope) -> Shown:
        return self._policies.of_class(scope.machine) if scope.machine else self._policies.of_node(scope.node_id)


def _scope(node_id: str, number: int) -> Scope:
    machine = class_from_wire(number)
    if number and machine is None:
        raise BadRequest(what="class", reason=f"{number} is no class of machines that this server knows")
    if bool(node_id) == bool(machine):
        raise BadRequest(what="policy", reason="it is of one node or of one class")
    return Scope(node_id, machine)


def _to_wire(shown: Shown) -> pb.Policy:
    node = shown.node
    policy = pb.Policy(
        node_id=node.node_id if node else "",
        machine_class=class_to_wire(shown.machine) if shown.machine else types.MACHINE_CLASS_UNSPECIFIED,
        values=[
            pb.PolicyValue(key=key, value=written(getattr(shown.settings, key)), source=_source(shown, key))
            for key in KEYS
        ],
    )
    if node is not None and node.status.HasField("policy"):
        policy.status.CopyFrom(node.status.policy)
    return policy


def _source(shown: Shown, key: str) -> pb.PolicySource:
    if key in shown.of_node:
        return pb.POLICY_SOURCE_NODE
    return pb.POLICY_SOURCE_CLASS if key in shown.of_class else pb.POLICY_SOURCE_DEFAULT
