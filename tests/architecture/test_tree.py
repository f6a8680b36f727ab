"""The repository as a whole: it can be built anywhere, by anyone, and its root cannot be imported by mistake."""

import re

from support.tree import ROOT, files, name_of, text_of

# Put together from parts, so that this file does not find itself.
HOSTS = ("pypi" + ".org", "pythonhosted" + ".org", "deb." + "debian.org", "npmjs" + ".org", "archive.ubuntu" + ".com")
DEVELOPER_PATHS = re.compile(
    "(?<![A-Za-z0-9_.$}])/(" + "work|home/[a-z]+|Users/[A-Za-z]+|root" + r")/(?!\.local/share/clusterai)"
)
UNFINISHED = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + r"X)\b")
BEFORE_TESTS = ("pytest.mark.sk" + "ip", "pytest.sk" + "ip(", "mark.xf" + "ail")


def lines_that(found: "re.Pattern[str] | tuple[str, ...]") -> list[str]:
    """Return where a pattern, or one of some words, stands."""

    def hit(line: str) -> bool:
        return bool(found.search(line)) if isinstance(found, re.Pattern) else any(word in line for word in found)

    return [
        f"{name_of(path)}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if hit(line)
    ]


def test_no_package_registry_is_named() -> None:
    """Which index or mirror to use is the reader's own setting."""
    assert lines_that(HOSTS) == []


def test_no_path_of_a_developer_s_machine_is_named() -> None:
    assert lines_that(DEVELOPER_PATHS) == []


def test_nothing_is_left_for_later_in_a_comment() -> None:
    assert lines_that(UNFINISHED) == []


def test_no_test_is_switched_off() -> None:
    assert lines_that(BEFORE_TESTS) == []


def test_the_root_holds_no_python_package() -> None:
    assert not (ROOT / "__init__.py").exists()
    assert not (ROOT / "conftest.py").exists()


def test_no_stub_is_committed_by_mistake() -> None:
    """Stubs are made by the target's own tools at build time; newer ones do not run on an older target."""
    assert "/common/clusterai/v1/*_pb2*.py" in (ROOT / ".gitignore").read_text().splitlines()


def test_scripts_are_executable() -> None:
    scripts = [path for path in files() if path.parent == ROOT / "scripts"]
    assert scripts
    assert [name_of(path) for path in scripts if not path.stat().st_mode & 0o100] == []
