"""gRPC as this project uses it: options, channels, and errors in both directions."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc

from clusterai.errors import ClusterAIError
from clusterai.remote import CODE_KEY, HINT_KEY, MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES, SERVER_NAME, meaning

_HINT_LIMIT = 2000  # HTTP/2 headers are limited to 8 kB in all
_PRINTABLE = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"

_BOTH = (
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),  # it answers each message with a ping, to size windows that small messages never fill
)
CLIENT_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *_BOTH,
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel starts without an old one's back-off
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 20_000),  # a handshake's deadline too: see `secure_channel`
    ("grpc.max_reconnect_backoff_ms", 3_000),
)
SERVER_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *_BOTH,
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),  # with 1 a second daemon binds the same port silently
)


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
    return meaning(error.code().name, error.details() or "", metadata, target)
