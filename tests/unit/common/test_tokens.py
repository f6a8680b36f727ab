"""Join tokens as text, and the approval code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterai.approval import approval_code, commitment, new_nonce
from clusterai.tokens import BadToken, JoinToken, secret_hash

TOKEN = JoinToken(bytes(range(32)), "tncesh5n", "ijlohc5muern4wz6o7ksz4l3ge")


def test_a_token_is_one_line_that_comes_back() -> None:
    text = str(TOKEN)
    assert text.startswith("cai1.")
    assert JoinToken.parse(f"  {text}\n") == TOKEN
    assert JoinToken.parse(text).ca_sha256 == bytes(range(32))


def test_two_tokens_share_nothing() -> None:
    other = JoinToken.new(TOKEN.ca_sha256)
    assert other.token_id != TOKEN.token_id
    assert other.secret != TOKEN.secret
    assert secret_hash(other.secret) != secret_hash(TOKEN.secret)


def test_the_secret_is_not_shown_by_accident() -> None:
    assert TOKEN.secret not in repr(TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cai1",
        str(TOKEN)[:-1],
        str(TOKEN) + "a",
        str(TOKEN).upper(),
        str(TOKEN).replace("cai1", "cai2"),
        "x" * 10_000,
        str(TOKEN).replace(".", "/"),
        "cai1.\0." + "a" * 8,
        "cai1." + "ü" * 52,
        "../../etc/passwd",
    ],
)
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadToken) as refused:
        JoinToken.parse(text)
    assert "clusteractl token create" in refused.value.advice
    assert len(text) < 20 or text not in str(refused.value)


@given(st.text())
def test_no_text_crashes_the_parser(text: str) -> None:
    with pytest.raises(BadToken):
        JoinToken.parse(text)


def test_a_code_is_short_and_the_same_at_both_ends() -> None:
    node, server = new_nonce(), new_nonce()
    code = approval_code(b"ca", b"csr", node, server)
    assert code == approval_code(b"ca", b"csr", node, server)
    assert len(code) == 7
    assert code[3] == "-"


def test_every_part_changes_the_code() -> None:
    parts = [b"ca", b"csr", b"node nonce", b"server nonce"]
    codes = {approval_code(*parts)}
    for position in range(4):
        changed = [*parts]
        changed[position] += b"!"
        codes.add(approval_code(*changed))
    assert len(codes) == 5


def test_bytes_cannot_move_from_one_part_to_the_next() -> None:
    assert approval_code(b"ab", b"c", b"n", b"s") != approval_code(b"a", b"bc", b"n", b"s")


def test_a_commitment_fixes_the_nonce_and_hides_it() -> None:
    nonce = new_nonce()
    assert commitment(nonce) == commitment(nonce)
    assert nonce not in commitment(nonce)
    assert commitment(nonce) != commitment(new_nonce())
