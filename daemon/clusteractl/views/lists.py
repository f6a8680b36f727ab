"""Tokens, operators, units, events and log lines as a person sees them."""

import re
from collections.abc import Sequence

from clusteractl.output import Block
from clusteractl.tables import Column, Table
from clusteractl.words import ago, moment, plural, until, word
from clusterai.v1.event_pb2 import Event
from clusterai.v1.operator_pb2 import Operator
from clusterai.v1.token_pb2 import ROLE_NODE, CreateTokenResponse, Role, Token
from clusterai.v1.types_pb2 import LogLine
from clusterai.v1.unit_pb2 import Unit

ENROLLMENT_PORT = "7444"
_SETUP_URL, _SHA256 = re.compile(r"https://[A-Za-z0-9.-]+(:\d+)?/repo/setup\.sh"), re.compile(r"[0-9a-f]{64}")
_PRIORITY_STATES = {0: "failed", 1: "failed", 2: "failed", 3: "failed", 4: "warning"}


def token_list(tokens: Sequence[Token], now: float) -> list[Block]:
    """One row a token; its secret is known to nobody."""
    if not tokens:
        return ["There are no tokens. Make one with: clusteractl token create"]
    columns = (
        Column("TOKEN", keep=True), Column("ROLE", keep=True), Column("NAME", least=8),
        Column("STATE", keep=True, stated=True), Column("USED", keep=True), Column("EXPIRES", keep=True),
        Column("BY", least=8),
    )  # fmt: skip
    return [Table(columns, tuple(_token_row(token, now) for token in tokens))]


def token_guide(reply: CreateTokenResponse, now: float) -> list[str]:
    """What to do with a new token, as lines; the commands are those of `token_commands`."""
    details = reply.details
    uses = "once" if details.use_limit <= 1 else f"{details.use_limit} times"
    article = "an" if _role(details)[0] in "ao" else "a"
    name = f" named {details.bound_name}" if details.bound_name else ""
    head = (
        f"This token lets in {article} {_role(details)}{name}, {uses}, for {_left(details, now)}. It is shown only now."
    )
    return [head, "On the other machine:", *(f"  {command}" for command in token_commands(reply))]


def phone_guide(reply: CreateTokenResponse, now: float) -> list[str]:
    """What to do with a new token for a phone, up to its line."""
    first = token_guide(reply, now)[0].replace("a node", "a phone")
    return [first, "On the phone, in Termux from F-Droid or GitHub, paste this line, or what the code says:"]


def phone_line(reply: CreateTokenResponse) -> str:
    """The line that sets up a phone; empty when the server has no packages.

    It is as short as it can be, for a code that a phone reads from a screen. The token reaches the script by standard
    input: it is in no process's arguments, and bounded by its one use and its time in the shell's history.
    """
    setup = _setup(reply)
    if setup is None:
        return ""
    repository, sha256 = setup
    server, host = _server(reply.server_addresses), _host(repository)
    elsewhere = "" if server == host else f" --server {server}"
    fetch, check = "curl -fsSko s $u/setup.sh", f'echo "{sha256}  s"|sha256sum -c'
    return f"cd;u={repository};{fetch}&&{check}&&echo {reply.token}|sh s{elsewhere} $u"


def token_commands(reply: CreateTokenResponse) -> list[str]:
    """The commands for the other machine; they ask for the token, which never stands in a command line."""
    server, bound = _server(reply.server_addresses), reply.details.bound_name
    if reply.details.role == ROLE_NODE:
        join = f"sudo clusterai-agent join --server {server}"
        return [_setup_line(reply) or "sudo apt install ./clusterai-agent_*.deb ./python3-clusterai_*.deb", join]
    login = f"clusteractl login --server {server}" + ("" if bound else " --name NAME")
    return ["sudo apt install ./clusteractl_*.deb ./python3-clusterai_*.deb", login]


def _setup_line(reply: CreateTokenResponse) -> str:
    """Return the line that sets up the server's package repository; empty when it has none.

    The new machine cannot check the server's certificate yet (-k), so the line carries what the script has to hash to.
    """
    setup = _setup(reply)
    if setup is None:
        return ""
    repository, sha256 = setup
    check = f'echo "{sha256}  $f" | sha256sum -c --quiet -'
    return f'f=$(mktemp) && curl -fsSk {repository}/setup.sh -o "$f" && {check} && sudo sh "$f" {repository}'


def _setup(reply: CreateTokenResponse) -> tuple[str, str] | None:
    """The repository's address and its script's hash, when they are fit to stand in a line for a shell."""
    if not (_SETUP_URL.fullmatch(reply.setup_url) and _SHA256.fullmatch(reply.setup_sha256)):
        return None
    return reply.setup_url.rpartition("/")[0], reply.setup_sha256


def _host(repository: str) -> str:
    return repository.removeprefix("https://").removesuffix("/repo").partition(":")[0]


def operator_list(operators: Sequence[Operator], now: float) -> list[Block]:
    """One row an operator."""
    if not operators:
        return ["Nobody has an operator certificate. Let someone in with: clusteractl token create --role operator"]
    columns = (
        Column("OPERATOR", least=10),
        Column("ROLE", keep=True),
        Column("CERTIFICATE ENDS", keep=True),
        Column("SINCE", keep=True),
    )
    rows = tuple(
        (
            one.name,
            word(Role, one.role),
            until(one.certificate_expires_unix_seconds, now),
            ago(one.created_unix_seconds, now),
        )
        for one in operators
    )
    return [Table(columns, rows)]


def unit_list(units: Sequence[Unit], back_end: str, now: float) -> list[Block]:
    """One row a unit of the server."""
    if not units:
        return [f"The daemon controls no units here (back-end: {back_end})."]
    columns = (
        Column("UNIT", least=24), Column("STATE", keep=True, stated=True), Column("SUB", least=5),
        Column("PID", right=True, keep=True), Column("RESTARTS", right=True, keep=True), Column("SINCE", keep=True),
    )  # fmt: skip
    return [Table(columns, tuple(_unit_row(unit, now) for unit in units))]


def event_line(event: Event) -> str:
    """One event: when, what kind, about what, and the sentence."""
    return f"{moment(event.time_unix_seconds)}  {event.kind:<18} {event.subject:<16} {event.message}"


def log_line(line: LogLine) -> str:
    """One log line, the machine's name in front when it is a node's."""
    machine = f"{line.node_id} " if line.node_id else ""
    return f"{moment(line.time_unix_seconds)} {machine}{line.unit.removesuffix('.service')}: {line.message}"


def log_state(line: LogLine) -> str:
    """The name of the state whose colour the line gets: syslog's error and worse, warning, or none."""
    return _PRIORITY_STATES.get(line.priority, "")


def _token_row(token: Token, now: float) -> tuple[str, ...]:
    used = f"{token.use_count}/{token.use_limit}"
    expires = until(token.expires_unix_seconds, now)
    return (
        token.token_id,
        _role(token),
        token.bound_name or "-",
        _token_state(token, now),
        used,
        expires,
        token.created_by or "-",
    )


def _token_state(token: Token, now: float) -> str:
    if token.revoked:
        return "revoked"
    if token.use_count >= token.use_limit:
        return "used"
    return "expired" if token.expires_unix_seconds <= now else "usable"


def _unit_row(unit: Unit, now: float) -> tuple[str, ...]:
    state = unit.active_state if unit.installed else "not installed"
    return (
        unit.unit.removesuffix(".service"),
        state,
        unit.sub_state or "-",
        str(unit.main_process_id or "-"),
        str(unit.restart_count),
        ago(unit.since_unix_seconds, now),
    )


def _role(token: Token) -> str:
    return word(Role, token.role)


def _left(token: Token, now: float) -> str:
    minutes = max(1, round((token.expires_unix_seconds - now) / 60))
    return plural(minutes, "minute") if minutes < 120 else plural(round(minutes / 60), "hour")


def _server(addresses: Sequence[str]) -> str:
    """The first address, without the usual port; `HOST` when the daemon knows none."""
    return addresses[0].removesuffix(f":{ENROLLMENT_PORT}") if addresses else "HOST"
