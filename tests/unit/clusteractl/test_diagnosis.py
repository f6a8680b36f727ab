"""The checks of the operator's own machine."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clusteractl.diagnosis import clock_check, dask_certificate_check, dask_environment_check, installed, version_check
from clusterai.credentials import save_credentials
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.v1.cluster_pb2 import PoolStatus
from support import samples

POOLS = [PoolStatus(pool_name="main", environment=samples.environment())]


@pytest.mark.parametrize(
    ("here", "outcome"),
    [(1000.0, "ok"), (1004.9, "ok"), (995.1, "ok"), (1005.0, "warning"), (800.0, "failed"), (1e6, "failed")],
)
def test_the_clock_may_differ_by_seconds_not_by_minutes(here: float, outcome: str) -> None:
    check = clock_check(1000.0, here)
    assert check.outcome == outcome
    assert bool(check.fix) == (outcome != "ok")


def test_a_server_that_tells_no_clock_is_no_failure() -> None:
    assert clock_check(0.0, 1e9).outcome == "not-applicable"


def test_different_versions_are_a_warning_with_a_fix() -> None:
    assert version_check("0.1.0", "0.1.0").outcome == "ok"
    check = version_check("0.1.0", "0.2.0")
    assert (check.outcome, "0.2.0" in check.message) == ("warning", True)
    assert "apt" in check.fix


def test_no_dask_certificate_is_no_failure(tmp_path: Path) -> None:
    assert dask_certificate_check(tmp_path / "none", datetime.now(UTC)).outcome == "not-applicable"


@pytest.mark.parametrize(("days", "outcome"), [(0, "ok"), (8, "warning")])
def test_a_dask_certificate_that_ended_is_a_warning(tmp_path: Path, days: int, outcome: str) -> None:
    authority, key = CertificateAuthority.create("Dask test"), new_key()
    issued = authority.issue(new_csr(key), "spiffe://c-1/dask/main/ann")
    save_credentials(tmp_path / "main-1.pem", key_pem(key), issued.chain_pem)
    (tmp_path / "main-1-ca.pem").write_bytes(authority.cert_pem)
    check = dask_certificate_check(tmp_path, datetime.now(UTC) + timedelta(days=days))
    assert check.outcome == outcome
    assert bool(check.fix) == (outcome == "warning")


def test_a_damaged_dask_certificate_fails_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "main-1.pem").write_text("nonsense")
    check = dask_certificate_check(tmp_path, datetime.now(UTC))
    assert check.outcome == "failed"
    assert "main-1.pem" in check.message


def made_environment(root: Path, versions: dict[str, str], minor: str = "3.11") -> Path:
    """A virtual environment's metadata, as pip leaves it."""
    for name, version in versions.items():
        folder = root / f"lib/python{minor}/site-packages/{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return root


def test_a_matching_environment_is_ok(tmp_path: Path) -> None:
    environment = made_environment(tmp_path, samples.VERSIONS)
    assert installed(environment)["python"] == "3.11"
    assert dask_environment_check(environment, POOLS).outcome == "ok"


@pytest.mark.parametrize(
    ("versions", "minor", "difference"),
    [
        ({**samples.VERSIONS, "dask": "2025.1.0"}, "3.11", "dask 2026.8.0 is wanted, 2025.1.0 is there"),
        (samples.VERSIONS, "3.13", "Python 3.11 is wanted, 3.13 is there"),
    ],
)
def test_an_environment_that_would_crash_workers_fails_with_the_fix(
    tmp_path: Path, versions: dict[str, str], minor: str, difference: str
) -> None:
    check = dask_environment_check(made_environment(tmp_path, versions, minor), POOLS)
    assert check.outcome == "failed"
    assert difference in check.message
    assert check.fix == "clusteractl dask env --pool main --create PATH"


def test_no_environment_or_one_without_dask_is_no_failure(tmp_path: Path) -> None:
    assert dask_environment_check(None, POOLS).outcome == "not-applicable"
    assert dask_environment_check(tmp_path, POOLS).outcome == "not-applicable"
    assert dask_environment_check(made_environment(tmp_path, samples.VERSIONS), []).outcome == "not-applicable"
