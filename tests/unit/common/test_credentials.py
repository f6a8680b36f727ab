"""One file with key and chain, and when it is to be renewed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterai.credentials import load_credentials, renewal_due, renewal_time, save_credentials, validity
from clusterai.files import BadFile
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key

START = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    key, authority = new_key(), CertificateAuthority.create("test")
    issued = authority.issue(new_csr(key), "spiffe://c/node/n")
    save_credentials(tmp_path / "node.pem", key_pem(key), issued.chain_pem)
    loaded = load_credentials(tmp_path / "node.pem")
    assert (loaded.key_pem, loaded.chain_pem) == (key_pem(key), issued.chain_pem)
    assert (loaded.not_before, loaded.not_after) == (issued.not_before, issued.not_after)
    assert (tmp_path / "node.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("keep", ["key", "chain", "half", "garbage", "nothing"])
def test_half_a_file_is_refused_and_says_what_to_do(tmp_path: Path, keep: str) -> None:
    key, authority = new_key(), CertificateAuthority.create("test")
    chain = authority.issue(new_csr(key), "spiffe://c/node/n").chain_pem
    garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    content = {
        "key": key_pem(key),
        "chain": chain,
        "half": (key_pem(key) + chain)[:400],
        "garbage": key_pem(key) + garbage,
        "nothing": b"",
    }
    (tmp_path / "node.pem").write_bytes(content[keep])
    with pytest.raises(BadFile, match=r"node\.pem") as refused:
        load_credentials(tmp_path / "node.pem")
    assert "join again" in refused.value.advice


@pytest.mark.parametrize(
    ("age", "jitter", "due"),
    [(0, 0, False), (0.66, 0, False), (0.67, 0, True), (0.67, 1, False), (0.72, 1, True), (1.5, 1, True)],
)
def test_renewal_is_due_from_two_thirds_of_life_on(age: float, jitter: float, *, due: bool) -> None:
    assert renewal_due(START, START + WEEK, START + WEEK * age, jitter) is due


@given(st.floats(0, 1))
def test_jitter_spreads_renewals_but_leaves_a_quarter_of_life(jitter: float) -> None:
    due = renewal_time(START, START + WEEK, jitter)
    assert START + WEEK * 0.66 < due < START + WEEK * 0.75


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader_of_validity(data: bytes) -> None:
    with pytest.raises(ValueError):
        validity(data)
