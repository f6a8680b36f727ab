"""The documents hold: links lead somewhere, and every command that they name exists with the options it is given."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from clusteractl.cli import cli
from support.tree import ROOT, files, name_of, python_path

DOCUMENTS = [path for path in files() if path.suffix == ".md"]
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
OURS = re.compile(r"(?<![/\w.-])(clusteractl|clusterai-agent|clusteraid)((?: +[^\s`|;&()\\#]+)*)")
SCRIPT = re.compile(r"(?<![\w/])((?:scripts|examples|tests)/[A-Za-z0-9_./-]+)")
OTHERS = {"clusterai-agent": "clusterai_agent", "clusteraid": "clusteraid"}


def spans(path: Path) -> Iterator[str]:
    """Yield the lines of code in a document, blocks and spans."""
    for match in CODE.finditer(path.read_text()):
        yield from match[0].strip("`").splitlines()


def commands(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield program and words of each of our commands that a document names."""
    for line in spans(path):
        for program, rest in OURS.findall(line):
            yield program, rest.split()


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as forges make them."""
    headings = re.findall(r"^#+ +(.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_placeholder(word: str) -> bool:
    """Tell whether a word stands for something: NODE, <node>, [--json], …, a value with a digit or a dot."""
    return not re.fullmatch(r"-{1,2}[a-z][a-z-]*(=.*)?|[a-z][a-z-]*", word)


def option_names(command: click.Command) -> set[str]:
    """Return the options that a command takes."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return own | {"--help", "-h", "--json"}


def fault_of_clusteractl(words: list[str]) -> str:
    """Return what is wrong with the words after `clusteractl`; empty when nothing is."""
    command: click.Command = cli
    known = option_names(cli)
    for word in words:
        if word.startswith("-"):
            if not is_placeholder(word) and word.partition("=")[0] not in known:
                return f"no option {word}"
        elif isinstance(command, click.Group) and not is_placeholder(word):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return f"no command {word}"
            command = found
            known |= option_names(command)
    return ""


@cache
def help_of(module: str, *words: str) -> str:
    """Return what a program prints for --help; empty when it does not know the words."""
    command = [sys.executable, "-P", "-m", module, *words, "--help"]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=python_path()
    )
    return ended.stdout if ended.returncode == 0 else ""


def fault_of_others(program: str, words: list[str]) -> str:
    """Return what is wrong with the words after `clusterai-agent` or `clusteraid`; empty when nothing is."""
    general, said = help_of(OTHERS[program]), ""
    verb = next((word for word in words if not word.startswith("-") and not is_placeholder(word)), "")
    if words and words[0] == verb:
        if not re.search(rf"\b{re.escape(verb)}\b", general):
            return f"no command {verb}"
        said = help_of(OTHERS[program], verb)
    options = [word.partition("=")[0] for word in words if word.startswith("-") and not is_placeholder(word)]
    unknown = [option for option in options if option not in general + said]
    return f"no option {', '.join(unknown)}" if unknown else ""


def fault(program: str, words: list[str]) -> str:
    return fault_of_clusteractl(words) if program == "clusteractl" else fault_of_others(program, words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_resolve(path: Path) -> None:
    targets = [a or b for a, b in LINK.findall(CODE.sub("", path.read_text()))]
    for target in targets:
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        goal = (path.parent / file).resolve() if file else path
        assert goal.exists(), f"{target} leads nowhere"
        if anchor and goal.suffix == ".md":
            assert anchor in anchors(goal), f"{name_of(goal)} has no heading for #{anchor}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_exist(path: Path) -> None:
    faults = [
        f"{program} {' '.join(words)}: {why}" for program, words in commands(path) if (why := fault(program, words))
    ]
    assert faults == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_a_document_names_exist(path: Path) -> None:
    named = {match.rstrip("./") for line in spans(path) for match in SCRIPT.findall(line)}
    assert {name for name in named if not (ROOT / name).exists() and "*" not in name} == set()


def test_a_command_that_does_not_exist_is_found() -> None:
    assert fault("clusteractl", ["node", "explode"]) == "no command explode"
    assert fault("clusteractl", ["node", "list", "--loudly"]) == "no option --loudly"
    assert fault("clusterai-agent", ["explode"]) == "no command explode"
    assert fault("clusteractl", ["node", "show", "NODE"]) == ""
