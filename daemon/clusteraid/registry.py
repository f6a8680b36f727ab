"""What state a node is in: pure decisions on frozen values.

A node has four independent sides: how it is heard (`link`), what operators want of it (`desired`), whether it fits
the pool (`misfit`), and whether its own policy lets it work. The state that people see is derived from them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from clusterai.ids import NodeId


class Link(Enum):
    """How a node is heard."""

    UP = "up"
    BROKEN = "broken"  # its stream ended, or it was not heard yet since the daemon started
    SILENT = "silent"


class Desired(Enum):
    """What operators want of a node."""

    ACTIVE = "active"
    DRAINING = "draining"
    DRAINED = "drained"


class Rest(Enum):
    """What the node's own policy says, and how far its rest is."""

    NONE = "none"
    DRAINING = "draining"  # its tasks and results leave
    DONE = "done"


class State(Enum):
    """What people see; the values are stable names."""

    PENDING = "pending"
    READY = "ready"
    SUSPECT = "suspect"
    OFFLINE = "offline"
    DRAINING = "draining"
    DRAINED = "drained"
    RESTING = "resting"
    ASLEEP = "asleep"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True)
class Misfit:
    """Why a node cannot work in the pool, and what to do about it."""

    reason: str
    hint: str = ""


@dataclass(frozen=True)
class NodeEntry:
    """A node. `epoch` is that of its newest session.

    What is derived is worked out once: all nodes are looked at again for each that comes back after a restart.
    """

    node_id: NodeId
    desired: Desired = Desired.ACTIVE
    link: Link = Link.BROKEN
    epoch: int = 0
    misfit: Misfit | None = None
    link_reason: str = "not heard yet since the server started"
    rest: Rest = Rest.NONE
    rest_reason: str = ""

    @cached_property
    def state(self) -> State:
        """The state that people see: what stops work for everyone comes first."""
        if self.link is Link.SILENT:
            return State.OFFLINE
        if self.link is Link.BROKEN:
            return State.SUSPECT
        if self.desired is not Desired.ACTIVE:
            return State(self.desired.value)
        if self.misfit is not None:
            return State.INCOMPATIBLE
        return State.READY if self.rest is Rest.NONE else State.RESTING

    @property
    def may_work(self) -> bool:
        """Whether its workers may get new tasks now."""
        return self.state is State.READY

    @cached_property
    def is_counted_on(self) -> bool:
        """Whether the pool counts on its workers: it may work, or nothing bad is known since the daemon started.

        A restart of the daemon must not stop the pool while nodes come back, within their grace time.
        """
        unheard = self.link is Link.BROKEN and self.epoch == 0
        willing = self.desired is Desired.ACTIVE and self.misfit is None and self.rest is Rest.NONE
        return self.may_work or (unheard and willing)

    @property
    def may_run_workers(self) -> bool:
        """Whether its workers may run at all: while draining they still give away their results."""
        return self.misfit is None and self.desired is not Desired.DRAINED and self.rest is not Rest.DONE

    @property
    def reason(self) -> str:
        """Why it is in this state, when that is not obvious."""
        if self.link is not Link.UP:
            return self.link_reason
        if self.state is State.RESTING:
            return self.rest_reason
        return self.misfit.reason if self.state is State.INCOMPATIBLE and self.misfit else ""

    @property
    def hint(self) -> str:
        """What to do about it."""
        if self.link is not Link.UP:
            return "on the node: `systemctl status clusterai-agent`, `journalctl -u clusterai-agent`"
        return self.misfit.hint if self.state is State.INCOMPATIBLE and self.misfit else ""


@dataclass(frozen=True)
class SessionOpened:
    """A stream said hello. Epochs grow; an older one cannot take over."""

    epoch: int


@dataclass(frozen=True)
class SessionBroken:
    """The stream of this epoch ended."""

    epoch: int
    why: str = "its session broke off"


@dataclass(frozen=True)
class Heard:
    """A message came in on the stream of this epoch."""

    epoch: int


@dataclass(frozen=True)
class Silent:
    """Nothing was heard for the whole grace time."""


@dataclass(frozen=True)
class DrainAsked:
    """An operator wants it out of the pool."""


@dataclass(frozen=True)
class DrainDone:
    """Nothing is left on it, or its time to go to rest is over."""


@dataclass(frozen=True)
class DrainEnded:
    """The drain failed, or an operator wants it back."""


@dataclass(frozen=True)
class Judged:
    """The node was compared with what the pool needs."""

    misfit: Misfit | None


@dataclass(frozen=True)
class PolicySaid:
    """The node's own policy was heard: whether it rests, and why."""

    rests: bool
    reason: str = ""


_OfSession = SessionOpened | SessionBroken | Heard | Silent
Event = _OfSession | DrainAsked | DrainDone | DrainEnded | Judged | PolicySaid


def next_entry(entry: NodeEntry, event: Event) -> NodeEntry:
    """Return the node after the event. What comes late, or from an older session, changes nothing."""
    handler: Callable[[NodeEntry, Event], NodeEntry] = _TRANSITIONS[type(event)]
    return handler(entry, event)


def _session_opened(entry: NodeEntry, event: SessionOpened) -> NodeEntry:
    if event.epoch <= entry.epoch:
        return entry
    return replace(entry, link=Link.UP, epoch=event.epoch, link_reason="")


def _session_broken(entry: NodeEntry, event: SessionBroken) -> NodeEntry:
    if event.epoch != entry.epoch or entry.link is not Link.UP:
        return entry
    return replace(entry, link=Link.BROKEN, link_reason=event.why)


def _heard(entry: NodeEntry, event: Heard) -> NodeEntry:
    """A stream that is heard again after a silence never broke: a broken one has no more messages."""
    if event.epoch != entry.epoch or entry.link is not Link.SILENT:
        return entry
    return replace(entry, link=Link.UP, link_reason="")


def _silent(entry: NodeEntry, _: Silent) -> NodeEntry:
    if entry.link is Link.SILENT:
        return entry
    return replace(entry, link=Link.SILENT, link_reason=entry.link_reason or "its heartbeats stopped")


def _drain_asked(entry: NodeEntry, _: DrainAsked) -> NodeEntry:
    return replace(entry, desired=Desired.DRAINING) if entry.desired is Desired.ACTIVE else entry


def _drain_done(entry: NodeEntry, _: DrainDone) -> NodeEntry:
    if entry.desired is Desired.DRAINING:
        return replace(entry, desired=Desired.DRAINED)
    resting = entry.desired is Desired.ACTIVE and entry.rest is Rest.DRAINING
    return replace(entry, rest=Rest.DONE) if resting else entry


def _drain_ended(entry: NodeEntry, _: DrainEnded) -> NodeEntry:
    return replace(entry, desired=Desired.ACTIVE)


def _judged(entry: NodeEntry, event: Judged) -> NodeEntry:
    return entry if entry.misfit == event.misfit else replace(entry, misfit=event.misfit)


def _policy_said(entry: NodeEntry, event: PolicySaid) -> NodeEntry:
    rest = Rest.NONE if not event.rests else Rest.DRAINING if entry.rest is Rest.NONE else entry.rest
    reason = event.reason if event.rests else ""
    if (rest, reason) == (entry.rest, entry.rest_reason):
        return entry
    return replace(entry, rest=rest, rest_reason=reason)


_TRANSITIONS: dict[type, Callable[..., NodeEntry]] = {
    SessionOpened: _session_opened,
    SessionBroken: _session_broken,
    Heard: _heard,
    Silent: _silent,
    DrainAsked: _drain_asked,
    DrainDone: _drain_done,
    DrainEnded: _drain_ended,
    Judged: _judged,
    PolicySaid: _policy_said,
}
