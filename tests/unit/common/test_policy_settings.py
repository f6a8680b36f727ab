"""The settings of work and rest: what may be written, what is refused and in which words, and each class's defaults."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterai.policy import (
    KEYS,
    BadPolicy,
    MachineClass,
    Settings,
    check_pairs,
    defaults,
    overlaid,
    parse_value,
    quiet_minutes,
    written,
)


def test_machines_on_the_mains_always_work_and_others_only_while_they_charge() -> None:
    assert defaults(MachineClass.SERVER) == defaults(MachineClass.DESKTOP) == Settings()
    laptop, phone = defaults(MachineClass.LAPTOP), defaults(MachineClass.PHONE)
    for settings in (laptop, phone):
        assert settings.charging_only
        assert (settings.battery_start_percent, settings.battery_stop_percent) == (80, 60)
        assert settings.battery_temperature_stop_celsius == 42
        assert settings.battery_temperature_resume_celsius == 38
        assert (settings.cpu_temperature_stop_celsius, settings.idle_minutes, settings.quiet_hours) == (0, 0, "")
    assert (laptop.work_when_unknown, phone.work_when_unknown) == (True, False)
    assert (laptop.unmetered_only, phone.unmetered_only) == (False, True)


@pytest.mark.parametrize("machine", MachineClass)
def test_what_is_written_is_read_back(machine: MachineClass) -> None:
    settings = defaults(machine)
    values = {key: written(getattr(settings, key)) for key in KEYS}
    assert overlaid(Settings(), values) == settings
    check_pairs(settings)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("charging_only", "Yes", True),
        ("charging_only", "off", False),
        ("battery_start_percent", "off", 0),
        ("battery_start_percent", " 85 ", 85),
        ("cpu_temperature_stop_celsius", "92.5", 92.5),
        ("quiet_hours", "22:00-07:00", "22:00-07:00"),
        ("quiet_hours", "off", ""),
    ],
)
def test_values_are_taken_as_people_write_them(key: str, text: str, value: object) -> None:
    assert parse_value(key, text) == value


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("charging_only", "maybe", "charging_only = 'maybe': must be true or false"),
        ("battery_start_percent", "101", "battery_start_percent = '101': must be a whole number from 0 to 100"),
        ("battery_start_percent", "80%", "must be a whole number from 0 to 100, or off"),
        ("battery_start_percent", "-1", "must be a whole number from 0 to 100, or off"),
        ("battery_start_percent", "٨٠", "must be a whole number from 0 to 100, or off"),
        ("cpu_temperature_stop_celsius", "nan", "must be a number from 0 to 120, or off"),
        ("drain_seconds", "4", "must be a whole number from 5 to 86400"),
        ("quiet_hours", "22-7", "must be two different times of the day, like 22:00-07:00, or off"),
        ("quiet_hours", "22:00-22:00", "must be two different times"),
        ("quiet_hours", "24:00-07:00", "must be two different times"),
        ("battery", "5", "battery = '5': there is no such setting; there are charging_only, "),
    ],
)
def test_a_value_that_may_not_be_is_refused_with_what_may(key: str, text: str, said: str) -> None:
    with pytest.raises(BadPolicy) as refused:
        parse_value(key, text)
    assert said in str(refused.value)


@given(st.sampled_from(KEYS), st.text(max_size=200))
def test_any_text_is_a_value_or_refused(key: str, text: str) -> None:
    with suppress(BadPolicy):
        value = parse_value(key, text)
        assert parse_value(key, written(value)) == value


def test_what_a_newer_version_wrote_is_left_out() -> None:
    values = {"charging_only": "true", "moon_phase": "full", "drain_seconds": "soon"}
    assert overlaid(Settings(), values) == Settings(charging_only=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(battery_start_percent=60, battery_stop_percent=60), "battery_stop_percent = '60': must be below"),
        (Settings(cpu_temperature_stop_celsius=95), "cpu_temperature_resume_celsius = '0': must be above 0 and below"),
        (
            Settings(battery_temperature_stop_celsius=40, battery_temperature_resume_celsius=41),
            "below battery_temperature_stop_celsius, which is 40",
        ),
    ],
)
def test_a_pair_without_a_gap_is_refused(settings: Settings, said: str) -> None:
    with pytest.raises(BadPolicy) as refused:
        check_pairs(settings)
    assert said in str(refused.value)


@pytest.mark.parametrize("text", ["", "off", "x", "7:00-8:00", "07:00-08:60"])
def test_text_that_names_no_quiet_hours_names_none(text: str) -> None:
    assert quiet_minutes(text) is None
