"""A node's states: every pair of state and event, and what no sequence of events may bring about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterai.ids import NodeId
from clusteraid.registry import (
    Desired,
    DrainAsked,
    DrainDone,
    DrainEnded,
    Event,
    Heard,
    Judged,
    Link,
    Misfit,
    NodeEntry,
    PolicySaid,
    Rest,
    SessionBroken,
    SessionOpened,
    Silent,
    State,
    next_entry,
)

OLD_PYTHON = Misfit("pool main needs Python 3.11", "install it")
NEW = NodeEntry(NodeId("pi4"))
READY = next_entry(NEW, SessionOpened(1))


def after(entry: NodeEntry, *events: Event) -> NodeEntry:
    for event in events:
        entry = next_entry(entry, event)
    return entry


ENTRIES = {
    "ready": READY,
    "suspect": after(READY, SessionBroken(1)),
    "offline": after(READY, Silent()),
    "draining": after(READY, DrainAsked()),
    "drained": after(READY, DrainAsked(), DrainDone()),
    "incompatible": after(READY, Judged(OLD_PYTHON)),
    "resting": after(READY, PolicySaid(True, "on battery")),
}
EVENTS: dict[str, Event] = {
    "new session": SessionOpened(2),
    "old session": SessionOpened(1),
    "broken": SessionBroken(1),
    "old broken": SessionBroken(0),
    "heard": Heard(1),
    "silent": Silent(),
    "drain": DrainAsked(),
    "drain done": DrainDone(),
    "drain ended": DrainEnded(),
    "misfit": Judged(OLD_PYTHON),
    "fits": Judged(None),
    "rests": PolicySaid(True, "on battery"),
    "works": PolicySaid(False),
}
TABLE = {  # from the state in the first column: the state after each event, in the order of EVENTS
    "ready": "ready ready suspect ready ready offline draining ready ready incompatible ready resting ready",
    "suspect": (
        "ready suspect suspect suspect suspect offline suspect"
        " suspect suspect suspect suspect suspect suspect"
    ),
    "offline": (
        "ready offline offline offline ready offline offline"
        " offline offline offline offline offline offline"
    ),
    "draining": (
        "draining draining suspect draining draining offline draining"
        " drained ready draining draining draining draining"
    ),
    "drained": (
        "drained drained suspect drained drained offline drained"
        " drained ready drained drained drained drained"
    ),
    "incompatible": (
        "incompatible incompatible suspect incompatible incompatible offline draining"
        " incompatible incompatible incompatible ready incompatible incompatible"
    ),
    "resting": (
        "resting resting suspect resting resting offline draining"
        " resting resting incompatible resting resting ready"
    ),
}
ROWS = [(before, event, then) for before, row in TABLE.items() for event, then in zip(EVENTS, row.split(), strict=True)]


@pytest.mark.parametrize(("before", "event", "then"), ROWS)
def test_every_state_answers_every_event(before: str, event: str, then: str) -> None:
    assert next_entry(ENTRIES[before], EVENTS[event]).state is State(then)


def test_a_drain_that_was_asked_for_while_offline_is_kept() -> None:
    assert after(ENTRIES["offline"], DrainAsked(), SessionOpened(2)).state is State.DRAINING


def test_a_node_that_rests_keeps_its_workers_until_they_are_empty_and_gets_no_work() -> None:
    resting = ENTRIES["resting"]
    assert (resting.rest, resting.may_run_workers, resting.is_counted_on) == (Rest.DRAINING, True, False)
    rested = after(resting, DrainDone())
    assert (rested.rest, rested.may_run_workers, rested.is_counted_on) == (Rest.DONE, False, False)
    assert after(rested, PolicySaid(True, "paused")).rest is Rest.DONE, "another reason begins nothing anew"
    assert after(rested, PolicySaid(True, "paused")).reason == "paused"
    works = after(rested, PolicySaid(False))
    assert (works.may_run_workers, works.is_counted_on, works.reason) == (True, True, "")


def test_what_has_no_place_in_time_changes_nothing() -> None:
    assert after(READY, DrainDone()) is READY
    assert after(READY, PolicySaid(False, "on the mains")) is READY


def test_a_node_says_why_it_may_not_work() -> None:
    assert after(READY, SessionBroken(1, "its session broke off")).reason == "its session broke off"
    assert ENTRIES["resting"].reason == "on battery"
    assert ENTRIES["incompatible"].reason == OLD_PYTHON.reason
    assert ENTRIES["incompatible"].hint == OLD_PYTHON.hint
    assert READY.reason == READY.hint == ""


EPOCHS = st.integers(0, 5)
SEQUENCES = st.lists(
    st.one_of(
        EPOCHS.map(SessionOpened), EPOCHS.map(SessionBroken), EPOCHS.map(Heard),
        st.sampled_from([Silent(), DrainAsked(), DrainDone(), DrainEnded(), Judged(OLD_PYTHON), Judged(None)]),
        st.sampled_from([PolicySaid(True, "on battery"), PolicySaid(True, "paused"), PolicySaid(False)]),
    ),
    max_size=30,
)


@given(SEQUENCES)
def test_no_sequence_lets_a_drained_unfit_or_resting_node_work(events: list[Event]) -> None:
    entry = after(NEW, *events)
    if entry.desired is not Desired.ACTIVE or entry.misfit is not None or entry.link is not Link.UP:
        assert not entry.may_work
    if entry.rest is not Rest.NONE:
        assert not entry.may_work
        assert not entry.is_counted_on
    if entry.desired is Desired.DRAINED or entry.misfit is not None or entry.rest is Rest.DONE:
        assert not entry.may_run_workers


@given(SEQUENCES, SEQUENCES)
def test_epochs_only_grow_and_old_sessions_change_nothing(first: list[Event], second: list[Event]) -> None:
    entry = after(NEW, *first)
    later = after(entry, *second)
    assert later.epoch >= entry.epoch
    stale = later.epoch - 1
    for event in (SessionOpened(stale), SessionBroken(stale), Heard(stale)):
        assert next_entry(later, event) is later


@given(SEQUENCES)
def test_a_new_session_always_brings_a_node_back(events: list[Event]) -> None:
    entry = after(NEW, *events, SessionOpened(6))
    assert entry.link is Link.UP
    assert entry.state not in (State.SUSPECT, State.OFFLINE)


@given(SEQUENCES)
def test_undraining_undoes_every_drain(events: list[Event]) -> None:
    assert after(NEW, *events, DrainEnded()).desired is Desired.ACTIVE
