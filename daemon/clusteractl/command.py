"""What all commands share: the options, the help with examples, and what they are given to work with."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import update_wrapper
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clusteractl.output import Output
from clusteractl.surroundings import SYSTEM_SOCKET, Surroundings

if TYPE_CHECKING:
    from clusteractl.connection import Cluster
    from clusteractl.logins import Logins
    from clusteractl.target import Target

Result = TypeVar("Result")
DEFAULT_TIMEOUT = 10.0
_KEY = "clusteractl.options"


@dataclass(frozen=True)
class Ctl:
    """What a command works with: options, surroundings, output, and the way to the cluster."""

    surroundings: Surroundings
    out: Output
    socket: Path | None
    timeout: float

    @property
    def logins(self) -> "Logins":
        """Where the login is kept."""
        from clusteractl.logins import Logins

        return Logins(self.surroundings.config_directory)

    def target(self) -> "Target":
        """Return the cluster that this command talks to; raise what hinders it."""
        from clusteractl.target import choose

        sockets = (SYSTEM_SOCKET, self.surroundings.local_socket)
        return choose(self.socket, sockets, self.logins.load, self.surroundings.user)

    @asynccontextmanager
    async def cluster(self) -> AsyncIterator["Cluster"]:
        """Connect to the cluster, with a login that is renewed when it is time."""
        from clusteractl.connection import connected
        from clusteractl.renewal import check_login, keep_fresh
        from clusteractl.target import Remote

        target = self.target()
        if isinstance(target, Remote):
            check_login(target.login, datetime.now(UTC))
        async with connected(target, self.timeout) as cluster:
            if isinstance(target, Remote):
                await keep_fresh(cluster, target.login, self.logins, self.out)
            yield cluster

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end; Ctrl-C cancels it and comes out as KeyboardInterrupt."""
        from clusterai.program import run_interruptible

        return run_interruptible(work)


class CtlCommand(click.Command):
    """A command with the common options and examples in its help."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._examples = examples
        self.params.extend(common_options())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the examples as they are to be typed."""
        write_examples(formatter, self._examples)


class CtlGroup(click.Group):
    """A group of commands, each in a module that is imported when it is called: start-up stays short."""

    def __init__(self, *args: Any, members: Mapping[str, str] | None = None, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, no_args_is_help=False, **kwargs)
        self._members, self._examples = dict(members or {}), examples

    command_class = CtlCommand

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order in which they are listed."""
        return [*self._members, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported now."""
        if cmd_name not in self._members:
            return super().get_command(ctx, cmd_name)
        module, _, name = self._members[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help when nothing was asked for: that is a question, and the exit code says it was not answered."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the examples as they are to be typed."""
        write_examples(formatter, self._examples)


def write_examples(formatter: click.HelpFormatter, examples: str) -> None:
    """Write a section of examples, one a line."""
    if not examples:
        return
    with formatter.section("Examples"):
        for line in examples.strip().splitlines():
            formatter.write(f"{'':>{formatter.current_indent}}{line.strip()}\n")


def common_options() -> list[click.Parameter]:
    """Return the options that every command has; they may also stand before the command."""
    return [
        click.Option(
            ["--json", "as_json"], is_flag=True, default=None, expose_value=False, callback=_remember,
            help="Print JSON, errors too.",
        ),
        click.Option(
            ["--socket"], type=click.Path(path_type=Path), expose_value=False, callback=_remember,
            metavar="PATH", help=f"Talk to the daemon at this socket (CLUSTERAI_SOCKET) [{SYSTEM_SOCKET}].",
        ),
        click.Option(
            ["--timeout"], type=click.FloatRange(min=0.1, max=3600), expose_value=False, callback=_remember,
            metavar="SECONDS", help=f"Give up on a call after so long [{DEFAULT_TIMEOUT:g}].",
        ),
    ]  # fmt: skip


def pass_ctl(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call a command's function with its Ctl first."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(ctl_of(click.get_current_context()), *args, **kwargs)

    return update_wrapper(call, function)


def ctl_of(ctx: click.Context) -> Ctl:
    """Return what the command at this context works with."""
    given = ctx.meta.get(_KEY, {})
    surroundings = ctx.find_root().obj or Surroundings.real()
    socket = given.get("socket") or surroundings.environment.get("CLUSTERAI_SOCKET")
    out = surroundings.output(as_json=bool(given.get("as_json")))
    return Ctl(surroundings, out, Path(socket) if socket else None, given.get("timeout") or DEFAULT_TIMEOUT)


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    if value:
        ctx.meta.setdefault(_KEY, {})[parameter.name] = value
    return value
