"""When nodes work and when they rest: what was set for classes and for nodes, and what follows for each node."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from clusterai.policy import (
    BadPolicy,
    MachineClass,
    Settings,
    check_pairs,
    defaults,
    overlaid,
    parse_value,
    written,
)
from clusterai.policy_wire import class_from_wire, settings_to_wire
from clusterai.v1.types_pb2 import PolicySettings
from clusteraid.nodes import Node, Nodes
from clusteraid.ports import EventLog
from clusteraid.store_policies import PolicyStore, Scope


@dataclass(frozen=True)
class Shown:
    """A policy as people see it. `machine` is None for a node whose agent knows none; `node` is None for a class."""

    machine: MachineClass | None
    settings: Settings
    of_class: Mapping[str, str]
    of_node: Mapping[str, str]
    node: Node | None = None


class Policies:
    """All policies: what is set for a node counts before what is set for its class, and that before the defaults."""

    def __init__(self, store: PolicyStore, nodes: Nodes, events: EventLog) -> None:
        self._store, self._nodes, self._events = store, nodes, events
        self._set: dict[Scope, dict[str, str]] = {}
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read what was set; once at start, before the nodes are loaded."""
        self._set = await self._store.load()
        self._nodes.plan_policy(self._planned)
        self._nodes.on_changed(self._node_changed)

    def drain_seconds(self, node: Node) -> float:
        """Return how long the node's work has to leave when it goes to rest."""
        return self._settings(node).drain_seconds

    def of_node(self, node_id: str) -> Shown:
        """Return a node's policy; raise NoSuchNode."""
        node = self._nodes.find(node_id)
        machine = class_from_wire(node.facts.machine_class)
        return Shown(machine, self._settings(node), self._of_class(machine), self._of_node(node.node_id), node)

    def of_class(self, machine: MachineClass) -> Shown:
        """Return what holds for a class of machines."""
        values = self._of_class(machine)
        return Shown(machine, overlaid(defaults(machine), values), values, {})

    async def change(self, scope: Scope, values: Mapping[str, str], *, reset: bool, by: str) -> None:
        """Set values for a node or a class, after forgetting those that were set there when `reset`.

        Raises:
            NoSuchNode: there is no such node.
            BadPolicy: a value may not be, or does not go with another one. Nothing was changed.
            StoreUnavailable: nothing was changed.
        """
        if scope.node_id:
            self._nodes.find(scope.node_id)
        async with self._changing:
            former = {} if reset else self._set.get(scope, {})
            wanted = former | {key: written(parse_value(key, text)) for key, text in values.items()}
            self._check(scope, wanted)
            await self._store.replace(scope, wanted)
            self._keep(scope, wanted)
        what = ", ".join(f"{key} = {wanted[key]}" for key in sorted(values)) or "everything back to the defaults"
        whose = scope.node_id or (f"all of class {scope.machine.value}" if scope.machine else "")
        self._events.note("policy-changed", scope.node_id or "policy", f"{by} set the policy of {whose}: {what}")
        for node in self._nodes:
            self._nodes.update_spec(node)

    def _keep(self, scope: Scope, wanted: dict[str, str]) -> None:
        self._set.pop(scope, None)
        if wanted and (not scope.node_id or any(node.node_id == scope.node_id for node in self._nodes)):
            self._set[scope] = wanted

    def _check(self, scope: Scope, wanted: Mapping[str, str]) -> None:
        """Check the pairs of whoever it is for: a class's values must go with what its nodes have of their own."""
        if scope.machine is not None:
            check_pairs(overlaid(defaults(scope.machine), wanted))
        for node in self._nodes:
            machine = class_from_wire(node.facts.machine_class) or MachineClass.SERVER
            own = wanted if node.node_id == scope.node_id else self._of_node(node.node_id)
            if node.node_id != scope.node_id and (machine is not scope.machine or not own):
                continue
            of_class = wanted if machine is scope.machine else self._of_class(machine)
            _check_node(node.node_id, overlaid(overlaid(defaults(machine), of_class), own), named=not scope.node_id)

    def _settings(self, node: Node) -> Settings:
        machine = class_from_wire(node.facts.machine_class) or MachineClass.SERVER
        return overlaid(overlaid(defaults(machine), self._of_class(machine)), self._of_node(node.node_id))

    def _of_class(self, machine: MachineClass | None) -> Mapping[str, str]:
        return self._set.get(Scope(machine=machine), {}) if machine else {}

    def _of_node(self, node_id: str) -> Mapping[str, str]:
        return self._set.get(Scope(node_id), {})

    def _planned(self, node: Node) -> PolicySettings | None:
        """Return what the node is told; None for an agent that knows no policy."""
        return settings_to_wire(self._settings(node)) if class_from_wire(node.facts.machine_class) else None

    def _node_changed(self, node: Node) -> None:
        """Forget what was set for a node that was removed; the store has done so already."""
        if not self._nodes.has(node):
            self._set.pop(Scope(node.node_id), None)


def _check_node(node_id: str, settings: Settings, *, named: bool) -> None:
    try:
        check_pairs(settings)
    except BadPolicy as error:
        if not named:
            raise
        details = {key: str(value) for key, value in error.details.items()}
        details["reason"] += f" (the node {node_id} has values of its own)"
        raise BadPolicy(**details) from error
