"""One version everywhere: package metadata, code, Debian changelog."""

import re
import tomllib

import clusterai
from support.tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_code_has_the_version_of_the_metadata() -> None:
    assert clusterai.__version__ == PROJECT["version"]


def test_the_debian_packages_have_the_version_of_the_metadata() -> None:
    newest = re.match(r"\S+ \(([^)]+)\)", (ROOT / "packaging/debian/changelog").read_text())
    assert newest is not None
    assert newest[1].partition("-")[0] == PROJECT["version"]


def test_the_changelog_for_users_has_the_version() -> None:
    assert re.search(rf"^## \[?{re.escape(PROJECT['version'])}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
