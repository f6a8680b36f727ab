"""What a repository offers after adding and removing, and which package belongs where."""

import pytest

from clusterai.errors import ClusterAIError
from clusteraid.repository.contents import NoSuchPackage, OlderVersion, VersionTaken, added, in_order, removed
from clusteraid.repository.package import Distribution, Package, PackageRefused, package_of
from clusteraid.repository.tools import is_older

PREFIX = "./data/data/com.termux/files/usr"
GOOD = {"Package": "clusterai-agent", "Version": "1.0", "Architecture": "all"}


def package(version: str, *, name: str = "agent", sha256: str = "aa" * 32, termux: bool = False) -> Package:
    return Package(Distribution.TERMUX if termux else Distribution.DEBIAN, name, version, "all", sha256, 1)


def versions(contents: tuple[Package, ...]) -> list[str]:
    return [one.version for one in contents]


def test_the_newest_versions_are_kept() -> None:
    contents: tuple[Package, ...] = ()
    for version in ("1.0~rc1", "1.0", "1.0+next1", "2:0.1"):
        contents = added(contents, [package(version)], is_older, keep=3)
    assert versions(contents) == ["2:0.1", "1.0+next1", "1.0"]


def test_each_package_and_distribution_counts_for_itself() -> None:
    contents = added((), [package("1"), package("2", termux=True), package("3", name="ctl")], is_older, keep=1)
    assert len(contents) == 3
    assert len(added(contents, [package("2")], is_older, keep=1)) == 3


def test_the_same_bytes_again_change_nothing() -> None:
    contents = added((), [package("1.0")], is_older, keep=3)
    assert added(contents, [package("1.0")], is_older, keep=3) == contents


def test_other_bytes_of_a_version_are_refused() -> None:
    with pytest.raises(VersionTaken, match="with other content"):
        added((package("1.0"),), [package("1.0", sha256="bb" * 32)], is_older, keep=3)


def test_two_builds_of_one_version_in_one_call_are_refused() -> None:
    with pytest.raises(VersionTaken):
        added((), [package("1.0"), package("1.0", sha256="bb" * 32)], is_older, keep=3)


def test_a_version_older_than_what_is_published_is_refused_with_the_way_back() -> None:
    with pytest.raises(OlderVersion) as refused:
        added((package("1.10"), package("1.1")), [package("1.9")], is_older, keep=3)
    assert "older than 1.10" in str(refused.value)
    assert "clusteraid repo remove agent=1.10" in refused.value.advice


def test_several_versions_are_added_in_any_order() -> None:
    new = [package("0.10.0"), package("0.9.0")]
    for order in (new, new[::-1]):
        assert versions(added((), order, is_older, keep=3)) == ["0.10.0", "0.9.0"]


def test_removing_takes_one_version_or_all() -> None:
    contents = in_order([package("1"), package("2"), package("2", name="ctl")], is_older)
    assert versions(removed(contents, "agent", "1")[0]) == ["2", "2"]
    assert versions(removed(contents, "agent", "")[1]) == ["2", "1"]
    with pytest.raises(NoSuchPackage, match="agent=3"):
        removed(contents, "agent", "3")


def test_a_package_below_termux_s_prefix_is_termux_s() -> None:
    paths = ["./", "./data", "./data/data", "./data/data/com.termux", f"{PREFIX}/bin/x"]
    assert package_of(GOOD, paths, "aa", 1).distribution is Distribution.TERMUX
    assert package_of(GOOD, ["./", "./usr/bin/x"], "aa", 1).distribution is Distribution.DEBIAN
    assert package_of(GOOD, ["./"], "aa", 1).distribution is Distribution.DEBIAN


@pytest.mark.parametrize(
    ("changed", "paths", "reason"),
    [
        ({"Package": "../../etc"}, ["./usr/x"], "name"),
        ({"Package": "a b"}, ["./usr/x"], "name"),
        ({"Package": "UPPER"}, ["./usr/x"], "name"),
        ({"Package": "a" * 200}, ["./usr/x"], "name"),
        ({"Package": ""}, ["./usr/x"], "name"),
        ({"Version": "1/../2"}, ["./usr/x"], "version"),
        ({"Version": "$(reboot)"}, ["./usr/x"], "version"),
        ({"Version": "1.0\n"}, ["./usr/x"], "version"),
        ({"Version": ""}, ["./usr/x"], "version"),
        ({"Architecture": "aarch64"}, ["./usr/x"], "architecture"),
        ({"Architecture": "arm64"}, [f"{PREFIX}/x"], "architecture"),
        ({"Architecture": "source"}, ["./usr/x"], "architecture"),
        ({}, ["./usr/x", f"{PREFIX}/x"], "for Debian and for Termux"),
        ({}, ["./data/data/com.other/x", f"{PREFIX}/x"], "for Debian and for Termux"),
    ],
)
def test_what_no_machine_could_install_is_refused(changed: dict[str, str], paths: list[str], reason: str) -> None:
    with pytest.raises(PackageRefused, match=reason) as refused:
        package_of({**GOOD, **changed}, paths, "aa", 1)
    assert isinstance(refused.value, ClusterAIError)
    assert refused.value.advice


def test_other_bytes_never_have_the_same_path() -> None:
    assert package("1:1.0").path == f"pool/{'aa' * 8}/agent_1.0_all.deb"
    assert package("1.0").path != package("1.0", sha256="bb" * 32).path
