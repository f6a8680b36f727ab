"""Values on the command line: spans of time, rates, names of models, settings, tokens, names of units."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from clusteractl.errors import MissingInput
from clusterai.files import read_limited
from clusterai.ids import parse_node_id
from clusterai.tokens import JoinToken

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_RATES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LEAST_RATE, _MOST_RATE = 1 << 10, 1 << 40
_TOKEN_LIMIT = 4096


class SpanType(click.ParamType):
    """A span of time as `90s`, `15m`, `2h`, `7d` or a number of seconds; becomes seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d{1,7})([smhd]?)", str(value).strip())
        if match is None or not int(match[1]):
            self.fail(f"{str(value)[:40]!r} is not a time; write 90s, 15m, 2h or 7d", param, ctx)
        return float(int(match[1]) * _UNITS[match[2]])


class RateType(click.ParamType):
    """Bytes per second as `50M`, `1G`, `512K` or a number, in powers of 1024 as curl and nginx read them."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes per second."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,13})([KMG]?)", str(value).strip().upper())
        rate = int(match[1]) * _RATES[match[2]] if match else 0
        if not _LEAST_RATE <= rate <= _MOST_RATE:
            self.fail(f"{str(value)[:40]!r} is not a rate; write 50M or 1G, bytes per second from 1K on", param, ctx)
        return rate


class ModelType(click.ParamType):
    """A model's name; becomes the one way in which the cluster writes it."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return the normalised name; raise BadModelName."""
        from clusterai.models import normalised

        return normalised(str(value))


class NodeType(click.ParamType):
    """A node's name."""

    name = "node"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return the name; raise InvalidName."""
        return parse_node_id(str(value))


class AssignmentType(click.ParamType):
    """A setting as `KEY=VALUE`."""

    name = "assignment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return key and value."""
        key, equals, text = str(value).partition("=")
        if not equals or not key.strip():
            self.fail(f"{str(value)[:40]!r} is no KEY=VALUE; write quiet_hours=22:00-07:00", param, ctx)
        return key.strip(), text.strip()


SPAN, RATE, MODEL, NODE, ASSIGNMENT = SpanType(), RateType(), ModelType(), NodeType(), AssignmentType()


def read_token(path: str | None, *, asks: bool) -> JoinToken:
    """Return the token from a file (`-` is stdin), else from a prompt, else from stdin; never from the arguments."""
    if path not in (None, "-"):
        return JoinToken.parse(read_limited(Path(str(path)), _TOKEN_LIMIT).decode("utf-8", "replace"))
    if path is None and asks:
        return JoinToken.parse(click.prompt("Token", hide_input=True, err=True))
    text = sys.stdin.read(_TOKEN_LIMIT)
    if not text.strip():
        raise MissingInput(
            what="the token", how="give it by --token-file FILE or on stdin; `clusteractl token create` makes one"
        )
    return JoinToken.parse(text)


def unit_name(text: str) -> str:
    """Return the unit's full name, as systemctl takes it: without a suffix it is a service."""
    return text if text.endswith((".service", ".timer", ".socket", ".target")) else f"{text}.service"
