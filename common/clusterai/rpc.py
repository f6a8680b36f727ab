"""gRPC as this project uses it: options, channels, and errors in both directions."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import grpc

from clusterai.errors import ClusterAIError, Status, TimedOut, Unreachable

MAX_MESSAGE_BYTES = 1 << 20
SERVER_NAME = "clusteraid"  # the DNS SAN of the daemon's certificate: what is dialled has no meaning for trust
CODE_KEY, HINT_KEY = "clusterai-code", "clusterai-hint"
_HINT_LIMIT = 2000  # HTTP/2 headers are limited to 8 kB in all
_ADDRESS = re.compile(
    r"(?P<bare>(?:[0-9a-fA-F]*:){2,}[0-9a-fA-F.]*(?:%[\w-]+)?)"
    r"|(?:\[(?P<ipv6>[0-9a-fA-F:.]+(?:%[\w-]+)?)\]|(?P<host>[A-Za-z0-9._-]{1,253}))(?::(?P<port>\d{1,5}))?",
    re.ASCII,
)
_PRINTABLE = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"

_MAX_ANSWER_BYTES = 1 << 26  # what a server sends is its own: a list of thousands of nodes is larger than 1 MiB

_BOTH = (
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)
CLIENT_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *_BOTH,
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel starts without an old one's back-off
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 20_000),  # a handshake's deadline too: see `secure_channel`
    ("grpc.max_reconnect_backoff_ms", 3_000),
)
SERVER_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *_BOTH,
    ("grpc.max_send_message_length", _MAX_ANSWER_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),  # with 1 a second daemon binds the same port silently
)


class BadAddress(ClusterAIError):
    code, status = "bad-address", Status.USAGE
    message = "{address!r} is not an address"
    hint = "use HOST or HOST:PORT, such as tower.local, 192.168.1.20:7444 or [fe80::1]:7444"


class RemoteError(ClusterAIError):
    """An error that the other side reported: its code, status, sentence and hint as they were there."""

    message = "{sentence}"
    hint = "{remote_hint}"

    def __init__(self, code: str, status: Status, sentence: str, hint: str = "") -> None:
        super().__init__(sentence=sentence, remote_hint=hint)
        self.code, self.status = code, status


def split_address(address: str, default_port: int) -> tuple[str, int]:
    """Return host and port of `HOST`, `HOST:PORT`, `[IPV6]:PORT` or a bare IPv6 address; raise BadAddress."""
    match = _ADDRESS.fullmatch(address.strip())
    if match is None or not 0 < int(match["port"] or default_port) < 1 << 16:
        raise BadAddress(address=address[:80])
    return match["ipv6"] or match["bare"] or match["host"], int(match["port"] or default_port)


def join_address(host: str, port: int) -> str:
    """Return `HOST:PORT`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def secure_channel(
    address: str,
    *,
    ca_pem: bytes,
    chain_pem: bytes | None = None,
    key_pem: bytes | None = None,
    handshake_seconds: float = 20.0,
    keepalive_seconds: float = 20.0,
) -> grpc.aio.Channel:
    """Return a channel that trusts only the given CA, whatever the address, with a client certificate if given.

    A handshake that takes longer than `handshake_seconds` is given up: 2,000 at once take 6 s of a server's CPU.
    A peer that is silent for `keepalive_seconds` is asked whether it is there.
    """
    credentials = grpc.ssl_channel_credentials(ca_pem, key_pem, chain_pem)
    patience = ("grpc.min_reconnect_backoff_ms", int(handshake_seconds * 1000))
    keepalive = ("grpc.keepalive_time_ms", int(keepalive_seconds * 1000))
    own = dict([*CLIENT_OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME), patience, keepalive])
    options = tuple(own.items())
    return grpc.aio.secure_channel(address, credentials, options=options)


def local_channel(socket: Path) -> grpc.aio.Channel:
    """Return a channel to the daemon's Unix socket."""
    options = (*CLIENT_OPTIONS, ("grpc.default_authority", "localhost"))
    return grpc.aio.insecure_channel(f"unix:{socket}", options=options)


def status_of(error: ClusterAIError) -> grpc.StatusCode:
    """The gRPC status that an error travels as."""
    return grpc.StatusCode[error.status.grpc_name]


def error_metadata(error: ClusterAIError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata that an error travels with, besides its status and sentence."""
    return ((CODE_KEY, error.code), (HINT_KEY, quote(error.advice[:_HINT_LIMIT], safe=_PRINTABLE)[:_HINT_LIMIT]))


def from_rpc_error(error: grpc.aio.AioRpcError, target: str) -> ClusterAIError:
    """Return what a failed call means: the peer's own error, or why there is no answer from the target."""
    trailing: Any = error.trailing_metadata() or ()
    metadata = {key: value for key, value in trailing if isinstance(value, str)}
    status = _status(error.code())
    sentence = error.details() or error.code().name
    if CODE_KEY in metadata:
        return RemoteError(metadata[CODE_KEY], status, sentence, unquote(metadata.get(HINT_KEY, "")))
    if status is Status.UNREACHABLE:
        return Unreachable(target, sentence, _UNREACHABLE_FIX)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(what=f"the call to {target}", limit="allowed")
    code = error.code().name.lower().replace("_", "-")
    return RemoteError(code, status, f"{target}: {sentence}", _HINTS.get(error.code(), _JOURNAL))


_JOURNAL = "look at `journalctl -u clusteraid` on the server"
_UNREACHABLE_FIX = (
    "check that clusteraid runs there (`systemctl status clusteraid`), its port and the firewall; "
    "a refused certificate (expired, revoked, of another cluster) looks the same from here"
)


_HINTS = {
    grpc.StatusCode.UNIMPLEMENTED: "the server runs an older version: compare with `clusteractl version`",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "a message may have at most 1 MiB; is a name, a list or a file too long?",
}


def _status(code: grpc.StatusCode) -> Status:
    return next((status for status in Status if status.grpc_name == code.name), Status.INTERNAL)
