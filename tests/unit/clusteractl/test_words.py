"""Values as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusteractl.words import ago, listed, plural, printable, size, span, until, word
from clusterai.v1.node_admin_pb2 import NODE_STATE_READY, NodeState


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "-"), (1, "1 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (150 << 20, "150 MiB"), (62 << 30, "62.0 GiB")],
)
def test_sizes_have_the_unit_that_keeps_them_short(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (400 * 86400, "400 d")],
)
def test_spans_are_rounded_down_to_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_time_that_was_never_set_is_never() -> None:
    assert (ago(0, 100), until(0, 100)) == ("never", "never")


def test_until_knows_past_and_future() -> None:
    assert (until(190, 100), until(40, 100)) == ("in 1 min", "1 min ago")


def test_lists_read_as_a_sentence() -> None:
    assert [listed([]), listed(["a"]), listed(["a", "b", "c"])] == ["", "a", "a, b and c"]


def test_one_is_singular() -> None:
    assert (plural(1, "node"), plural(0, "node")) == ("1 node", "0 nodes")


def test_states_have_short_names_and_a_newer_peers_are_unknown() -> None:
    assert [word(NodeState, value) for value in (NODE_STATE_READY, 0, 99)] == ["ready", "unknown", "unknown"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a b"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07rest", "rest"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("right\u202eleft", "right left"),
        ("größer 日本", "größer 日本"),
    ],
)
def test_text_of_others_does_not_drive_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_whatever_comes_is_one_line_without_control_characters(text: str) -> None:
    assert all(character.isprintable() for character in printable(text))
