"""The command line itself: help, names, options, completion scripts."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import clusteractl
from clusteractl.__main__ import main
from clusteractl.cli import cli
from clusteractl.inputs import RATE, SPAN, unit_name
from support.methods import METHODS

WANTED = """
status; node list; node show; node approve; node reject; node drain; node undrain; node remove; token create;
token list; token revoke; unit list; unit start; unit stop; unit restart; worker list; dask env; logs; events; doctor;
model list; model show; model pull; model place; model rm; model sync; model catalog; model recommend; why;
key create; key list; key revoke; ca; policy show; policy set;
login; logout; operator list; operator revoke; version; completion
"""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command that does something."""
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            if isinstance(command, click.Group):
                yield from commands(command, (*path, name))
            else:
                yield (*path, name)


COMMANDS = tuple(commands(cli))


def help_of(*words: str) -> str:
    """The help of a command."""
    result = CliRunner().invoke(cli, [*words, "--help"], prog_name="clusteractl")
    assert result.exit_code == 0
    return result.output


def test_all_commands_are_there() -> None:
    assert {" ".join(path) for path in COMMANDS} == {name.strip() for name in WANTED.split(";")}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_the_shape_that_man_pages_are_made_of(path: tuple[str, ...]) -> None:
    lines = help_of(*path).splitlines()
    assert lines[0].startswith(f"Usage: clusteractl {' '.join(path)} [OPTIONS]")
    assert {"Options:", "Examples:"} <= set(lines)
    assert all(len(line) <= 80 for line in lines if not line.startswith("  clusteractl") and "|" not in line)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_the_common_options(path: tuple[str, ...]) -> None:
    assert re.search(r"--json .*--socket PATH .*--timeout SECONDS ", help_of(*path), re.DOTALL)


@pytest.mark.parametrize("path", [(), ("node",), ("token",), ("model",), ("key",), *COMMANDS], ids=" ".join)
def test_every_example_is_a_command_line_that_parses(path: tuple[str, ...]) -> None:
    """Nothing is run: the parsers alone say whether the words have sense."""
    examples = help_of(*path).partition("Examples:\n")[2].splitlines()
    assert examples
    for line in examples:
        for call in re.findall(r"clusteractl ([^|>&]*)", line):
            parse(call.split())


def parse(words: list[str]) -> None:
    """Parse the words as the command line does; raise UsageError when they have no sense."""
    command: click.Command = cli
    context: click.Context | None = None
    while isinstance(command, click.Group):
        context = command.make_context("clusteractl", list(words), parent=context)
        name = "_protected_args" if hasattr(context, "_protected_args") else "protected_args"  # click 8.2 renamed it
        rest = [*getattr(context, name), *context.args]
        _, found, words = command.resolve_command(context, rest)
        assert found is not None
        command = found
    command.make_context("command", list(words), parent=context)


def test_the_list_of_commands_is_not_cut() -> None:
    commands_section = help_of().partition("Commands:\n")[2].partition("\n\n")[0]
    assert "..." not in commands_section


def test_a_group_alone_shows_its_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: clusteractl node" in captured.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nodes"], "no such command 'nodes'"),
        (["node", "show"], "missing argument 'NAME'"),
        (["node", "list", "--frobnicate"], "no such option"),
        (["logs", "-n", "0"], "invalid value for '-n'"),
        (["--timeout", "never", "status"], "invalid value for '--timeout'"),
        (["token", "create", "--ttl", "soon"], "'soon' is not a time; write 90s, 15m, 2h or 7d"),
        (["token", "create", "--role", "king"], "invalid value for '--role'"),
        (["node", "show", "../etc"], "node '../etc' is not a valid name"),
        (["node", "show", "a" * 10_000], "is not a valid name"),
        (["node", "show", "a\x00b"], "is not a valid name"),
        (["node", "drain", "größe"], "is not a valid name"),
        (["operator", "revoke", "An/n"], "is not a valid name"),
        (["dask", "env", "--pool", "../main"], "is not a valid name"),
        (["login"], "missing option '--server'"),
        (["completion", "tcsh"], "invalid value for"),
        (["model", "pull", "a/b/c/d"], "'a/b/c/d' is no name of a model: it has more than three parts"),
        (["model", "pull", "../etc"], "is no name of a model"),
        (["model", "show", "llama\x1b[2J"], "is no name of a model"),
        (["model", "pull", "a", "--limit", "fast"], "'fast' is not a rate; write 50M or 1G"),
        (["model", "pull", "a", "--limit", "0"], "'0' is not a rate"),
        (["model", "pull", "a", "--node", "../b"], "node '../b' is not a valid name"),
        (["model", "pull", "a", "--gpu", "--replicas", "2"], "--node, --gpu and --replicas exclude each other"),
        (["model", "place", "a"], "where the model shall be is missing"),
        (["model", "catalog", "--size", "tiny"], "invalid value for '--size'"),
        (["why", "a:"], "its tag is empty"),
        (["key", "create", "ann", "--name", "bob"], "the key has two names, 'ann' and 'bob'"),
        (["key", "create", "--dashboard", "--model", "a"], "a key of the dashboard opens no models"),
        (["key", "create", "--rpm", "0"], "invalid value for '--rpm'"),
    ],
)
def test_a_wrong_command_line_is_a_sentence_and_a_hint(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    first, *hint = capsys.readouterr().err.splitlines()
    assert first.startswith("clusteractl: ")
    assert sentence in first
    assert hint
    assert all(line.startswith("  ") for line in hint)


def test_a_wrong_command_line_is_json_when_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "frob", "--json"]) == 2
    assert capsys.readouterr().err == (
        '{"error": {"code": "usage", "message": "no such command \'frob\'", '
        '"hint": "see: clusteractl node --help", "exit_code": 2}}\n'
    )


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604800), ("45", 45)])
def test_times_have_units(text: str, seconds: float) -> None:
    assert SPAN.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["0", "0m", "-5m", "1.5h", "5 m", "m", "", "99999999d", "1w"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(click.UsageError):
        SPAN.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "rate"), [("50M", 50 << 20), ("1G", 1 << 30), ("512k", 512 << 10), ("125000", 125000), (" 1g ", 1 << 30)]
)
def test_rates_have_units(text: str, rate: int) -> None:
    assert RATE.convert(text, None, None) == rate


@pytest.mark.parametrize("text", ["", "M", "0M", "-1M", "1.5M", "50 M", "1T", "50MB/s", "1023", "9999999999999G", "١M"])
def test_other_rates_are_refused(text: str) -> None:
    with pytest.raises(click.UsageError):
        RATE.convert(text, None, None)


def test_a_unit_without_a_suffix_is_a_service() -> None:
    assert [unit_name("nginx"), unit_name("a@b.c"), unit_name("x.service")] == [
        "nginx.service", "a@b.c.service", "x.service",
    ]  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_for_this_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_CLUSTERACTL_COMPLETE={shell}_complete" in script
    assert "_clusteractl_completion" in script


def test_every_method_that_is_called_exists_on_the_wire() -> None:
    source = "\n".join(path.read_text() for path in Path(clusteractl.__path__[0]).rglob("*.py"))
    called = set(re.findall(r'"([A-Z]\w+Service/[A-Z]\w+)"', source))
    assert called <= METHODS
    assert len(called) == 36
