"""Names and identities, checked where they come in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterai.errors import InvalidName
from clusterai.ids import Identity, IdentityKind, parse_node_id, suggest_node_id

BAD_NAMES = (
    "",
    "-a",
    "a-",
    "A",
    "a.b",
    "a/b",
    "../etc",
    "..",
    "a\0b",
    "a b",
    "ä",
    "a\n",
    "x" * 64,
    "x" * 10_000,
    "node\u202e",
    "a_b",
)


@pytest.mark.parametrize("name", ["a", "pi4", "a-b", "0", "x" * 63])
def test_a_label_is_a_name(name: str) -> None:
    assert parse_node_id(name) == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_anything_else_is_refused_short_and_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidName) as refused:
        parse_node_id(name)
    assert len(str(refused.value)) < 1000
    assert "\0" not in str(refused.value)
    assert "a-z" in refused.value.advice


@given(st.text(max_size=200))
def test_every_host_name_gives_a_valid_suggestion(hostname: str) -> None:
    assert parse_node_id(suggest_node_id(hostname))


@pytest.mark.parametrize("text", ["spiffe://c1/daemon", "spiffe://c1/node/pi4", "spiffe://c1/operator/ada"])
def test_an_identity_comes_back(text: str) -> None:
    assert str(Identity.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://c1",
        "spiffe://c1/",
        "spiffe://c1/node",
        "spiffe://c1/node/",
        "spiffe://c1/node/a/b",
        "spiffe://c1/dask/main/n",
        "spiffe://c1/daemon/x",
        "spiffe://c1/node/..",
        "spiffe://c1/node/A",
        "http://c1/node/a",
        "spiffe:///node/a",
        "spiffe://c1/node/a\n",
        "spiffe://c1/root",
        "spiffe://C1/node/a",
        "spiffe://c1/node/a%2fb",
    ],
)
def test_what_is_not_exactly_an_identity_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        Identity.parse(text)


def test_the_kind_is_read_from_the_path() -> None:
    assert Identity.parse("spiffe://c1/operator/node").kind is IdentityKind.OPERATOR
