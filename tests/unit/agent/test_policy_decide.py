"""Work or rest: a table of what is decided and said, and what holds on every trace."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterai.policy import MachineClass, Settings, defaults
from clusterai_agent.policy.decide import MOST_CHANGES, Memory, Pause, Readings, decide
from support.traces import FULL, LAPTOP, LOOSE_PLUG, NOON, PHONE, TRACES, changes, most_in_an_hour, played

SERVER = defaults(MachineClass.SERVER)
WORKED, RESTED = Memory(True, NOON - 9999), Memory(False, NOON - 9999)


@pytest.mark.parametrize(
    ("readings", "policy", "before", "code", "sentence"),
    [
        (FULL, LAPTOP, WORKED, "works", ""),
        (FULL, PHONE, WORKED, "works", ""),
        (Readings(NOON), SERVER, WORKED, "works", ""),
        (replace(FULL, charge=0.41, plugged_in=False), LAPTOP, WORKED, "on-battery",
         "on battery, 41 %; works from 80 % while charging"),
        (replace(FULL, charge=0.41), LAPTOP, WORKED, "battery-low", "charging, 41 %; works from 80 %"),
        (replace(FULL, charge=0.70), LAPTOP, WORKED, "works", ""),
        (replace(FULL, charge=0.70), LAPTOP, replace(RESTED, low=True), "battery-low",
         "charging, 70 %; works from 80 %"),
        (replace(FULL, charge=0.80), LAPTOP, replace(RESTED, low=True), "works", ""),
        (replace(FULL, charge=0.70), LAPTOP, None, "battery-low", "charging, 70 %; works from 80 %"),
        (replace(FULL, charge=0.70, plugged_in=False),
         Settings(battery_start_percent=80, battery_stop_percent=60), WORKED, "works", ""),
        (replace(FULL, charge=0.50, plugged_in=False),
         Settings(battery_start_percent=80, battery_stop_percent=60), WORKED, "battery-low",
         "on battery, 50 %; works from 80 %"),
        (replace(FULL, battery_celsius=43.0), LAPTOP, WORKED, "battery-hot",
         "the battery is at 43 °C; works from 38 °C down"),
        (replace(FULL, battery_celsius=40.0), LAPTOP, replace(RESTED, hot=True), "battery-hot",
         "the battery is at 40 °C; works from 38 °C down"),
        (replace(FULL, battery_celsius=40.0), LAPTOP, WORKED, "works", ""),
        (replace(FULL, battery_celsius=None), LAPTOP, replace(RESTED, hot=True), "battery-hot",
         "the battery was too warm, and shows no temperature now; works from 38 °C down"),
        (replace(FULL, cpu_celsius=96.0),
         replace(LAPTOP, cpu_temperature_stop_celsius=95, cpu_temperature_resume_celsius=80), WORKED, "cpu-hot",
         "the processor is at 96 °C; works from 80 °C down"),
        (replace(FULL, metered=True), PHONE, WORKED, "metered", "the network is metered"),
        (replace(FULL, metered=True), LAPTOP, WORKED, "works", ""),
        (replace(FULL, metered=None), PHONE, WORKED, "network-unknown",
         "whether the network is metered is not known here; work_when_unknown = true lets it work all the same"),
        (replace(FULL, charge=None), PHONE, WORKED, "battery-unknown",
         "the battery's charge is not known here; work_when_unknown = true lets it work all the same"),
        (replace(FULL, charge=None, metered=None), replace(PHONE, work_when_unknown=True), WORKED, "works",
         "not known here, so not taken into account: the battery's charge, whether the network is metered"),
        (replace(FULL, charge=None), LAPTOP, WORKED, "works",
         "not known here, so not taken into account: the battery's charge"),
        (replace(FULL, charge=7.5), PHONE, WORKED, "battery-unknown",
         "the battery's charge is not known here; work_when_unknown = true lets it work all the same"),
        (FULL, replace(LAPTOP, quiet_hours="11:30-13:00"), WORKED, "quiet-hours", "quiet hours until 13:00"),
        (FULL, replace(LAPTOP, quiet_hours="22:00-07:00"), WORKED, "works", ""),
        (replace(FULL, utc_offset_seconds=-6 * 3600), replace(LAPTOP, quiet_hours="22:00-07:00"), WORKED,
         "quiet-hours", "quiet hours until 07:00"),
        (FULL, replace(LAPTOP, quiet_hours="nonsense"), WORKED, "works", ""),
        (replace(FULL, idle_seconds=60), replace(LAPTOP, idle_minutes=10), WORKED, "in-use",
         "in use; works when nobody used it for 10 min"),
        (replace(FULL, idle_seconds=600), replace(LAPTOP, idle_minutes=10), WORKED, "works", ""),
        (FULL, replace(LAPTOP, idle_minutes=10), WORKED, "works",
         "not known here, so not taken into account: how long nobody used it"),
        (replace(FULL, pause=Pause(NOON + 7200)), SERVER, WORKED, "paused",
         "paused by its owner until 14:00:00"),
        (replace(FULL, pause=Pause(NOON + 86400)), SERVER, WORKED, "paused",
         "paused by its owner until 12:00:00 tomorrow"),
        (replace(FULL, pause=Pause(until_charged=True), charge=0.5), LAPTOP, WORKED, "paused",
         "paused by its owner until the battery is charged to 80 %"),
        (replace(FULL, pause=Pause(until_charged=True)), LAPTOP, WORKED, "works", ""),
        (replace(FULL, pause=Pause(float("nan"))), LAPTOP, WORKED, "paused",
         "paused by its owner; pause.json cannot be read: `clusterai-agent resume` removes it"),
        (FULL, LAPTOP, Memory(False, NOON - 20), "settling", "rested only a moment ago; works from 12:00:40"),
        (FULL, LAPTOP, Memory(False, NOON - 120, changes=(NOON - 900, NOON - 600, NOON - 120)), "settling",
         "rested only a moment ago; works from 12:45:00"),
        (FULL, LAPTOP, Memory(False, NOON - 120, changes=(NOON - 600, NOON - 120)), "works", ""),
    ],
)  # fmt: skip
def test_what_is_decided_and_said(
    readings: Readings, policy: Settings, before: Memory | None, code: str, sentence: str
) -> None:
    decision = decide(readings, policy, before)
    assert (decision.code, decision.sentence) == (code, sentence)
    assert decision.works == (code == "works")


def test_what_an_owner_asked_for_comes_before_every_other_reason() -> None:
    cold = replace(FULL, charge=0.1, plugged_in=False, pause=Pause(NOON + 60))
    assert decide(cold, LAPTOP, WORKED).code == "paused"


def test_a_pause_that_is_over_says_so_once_it_is() -> None:
    assert not decide(replace(FULL, pause=Pause(NOON + 1)), LAPTOP, WORKED).pause_is_over
    assert decide(replace(FULL, pause=Pause(NOON)), LAPTOP, WORKED).pause_is_over
    assert not decide(FULL, LAPTOP, WORKED).pause_is_over


def test_a_clock_that_was_set_back_keeps_nobody_at_rest_for_long() -> None:
    memory = Memory(False, NOON + 1e6, changes=(NOON + 1e6,) * 4)
    decided = []
    for step in (0, 1800, 3600):
        decided.append(decide(replace(FULL, at=NOON + step), LAPTOP, memory))
        memory = decided[-1].memory
    assert [one.works for one in decided] == [False, False, True]


@pytest.mark.parametrize("name", TRACES)
def test_the_worst_traces_make_at_most_four_changes_an_hour(name: str) -> None:
    trace, policy = TRACES[name]
    for dwell in (0, 60, 900):
        moments = changes(trace, replace(policy, dwell_seconds=dwell))
        assert most_in_an_hour(moments) <= MOST_CHANGES, f"{name} with a dwell of {dwell} s"


def test_a_loose_plug_uses_what_changes_there_are() -> None:
    """The test before could pass with a node that never works again."""
    assert most_in_an_hour(changes(LOOSE_PLUG, LAPTOP)) == MOST_CHANGES
    assert len(changes(LOOSE_PLUG, LAPTOP)) >= 3 * MOST_CHANGES


ANY = st.floats(allow_nan=True, allow_infinity=True)
READINGS = st.builds(
    Readings,
    at=st.floats(0, 4e9),
    utc_offset_seconds=st.sampled_from([-12 * 3600.0, 0.0, 5.75 * 3600, 14 * 3600.0]),
    charge=st.none() | ANY | st.floats(0, 1),
    plugged_in=st.none() | st.booleans(),
    battery_celsius=st.none() | ANY | st.floats(20, 60),
    cpu_celsius=st.none() | ANY,
    metered=st.none() | st.booleans(),
    idle_seconds=st.none() | ANY,
    pause=st.none() | st.builds(Pause, until=ANY | st.floats(0, 4e9), until_charged=st.booleans()),
)
POLICIES = st.builds(
    Settings,
    charging_only=st.booleans(),
    battery_start_percent=st.integers(0, 100),
    battery_stop_percent=st.integers(0, 99),
    battery_temperature_stop_celsius=ANY,
    battery_temperature_resume_celsius=ANY,
    cpu_temperature_stop_celsius=ANY,
    cpu_temperature_resume_celsius=ANY,
    unmetered_only=st.booleans(),
    quiet_hours=st.sampled_from(["", "22:00-07:00", "09:00-17:00"]) | st.text(max_size=20),
    idle_minutes=st.integers(0, 1440),
    work_when_unknown=st.booleans(),
    dwell_seconds=st.integers(0, 3600),
)
MEMORIES = st.none() | st.builds(
    Memory,
    works=st.booleans(),
    since=st.floats(0, 4e9),
    low=st.booleans(),
    hot=st.booleans(),
    cpu_hot=st.booleans(),
    changes=st.lists(st.floats(0, 4e9), max_size=6).map(tuple),
)


@given(READINGS, POLICIES, MEMORIES)
def test_every_reading_has_a_decision_and_every_rest_a_sentence(
    readings: Readings, policy: Settings, memory: Memory | None
) -> None:
    decision = decide(readings, policy, memory)
    assert decision.works == (decision.code == "works") == decision.memory.works
    assert decision.works or decision.sentence
    assert len(decision.memory.changes) <= 6
    assert len(decision.sentence) < 300
    again = decide(readings, policy, decision.memory)
    assert again.works == decision.works, "the same readings change nothing"


STEPS = st.lists(
    st.tuples(st.floats(0.1, 1200), st.floats(0, 1), st.booleans(), st.floats(30, 50), st.booleans()), max_size=120
)


@settings(max_examples=300)
@given(STEPS, st.sampled_from([LAPTOP, PHONE, replace(PHONE, battery_start_percent=61)]), st.integers(0, 600))
def test_no_trace_makes_more_than_four_changes_an_hour(
    steps: list[tuple[float, float, bool, float, bool]], policy: Settings, dwell: int
) -> None:
    at, trace = NOON, []
    for span, charge, plugged, celsius, metered in steps:
        at += span
        trace.append(Readings(at, 0.0, charge, plugged, celsius, metered=metered))
    assert most_in_an_hour(changes(trace, replace(policy, dwell_seconds=dwell))) <= MOST_CHANGES


@given(STEPS)
def test_nobody_works_on_battery_or_below_its_threshold(steps: list[tuple[float, float, bool, float, bool]]) -> None:
    at, trace = NOON, []
    for span, charge, plugged, celsius, metered in steps:
        at += span
        trace.append(Readings(at, 0.0, charge, plugged, celsius, metered=metered))
    for readings, decision in zip(trace, played(trace, PHONE), strict=True):
        if decision.works:
            assert readings.plugged_in
            assert readings.charge is not None
            assert readings.charge > 0.6
            assert readings.battery_celsius is not None
            assert readings.battery_celsius < 42
            assert not readings.metered
