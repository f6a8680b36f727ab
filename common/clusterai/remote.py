"""The other side of a call: where it is, and what its errors mean. It needs no gRPC library."""

import re
from collections.abc import Mapping
from urllib.parse import unquote

from clusterai.errors import ClusterAIError, Status, TimedOut, Unreachable

MAX_MESSAGE_BYTES = 1 << 20
MAX_ANSWER_BYTES = 1 << 26  # what a server sends is its own: a list of thousands of nodes is larger than 1 MiB
SERVER_NAME = "clusteraid"  # the DNS SAN of the daemon's certificate: what is dialled has no meaning for trust
CODE_KEY, HINT_KEY = "clusterai-code", "clusterai-hint"
_ADDRESS = re.compile(
    r"(?P<bare>(?:[0-9a-fA-F]*:){2,}[0-9a-fA-F.]*(?:%[\w-]+)?)"
    r"|(?:\[(?P<ipv6>[0-9a-fA-F:.]+(?:%[\w-]+)?)\]|(?P<host>[A-Za-z0-9._-]{1,253}))(?::(?P<port>\d{1,5}))?",
    re.ASCII,
)
_JOURNAL = "look at `journalctl -u clusteraid` on the server"
_UNREACHABLE_FIX = (
    "check that clusteraid runs there (`systemctl status clusteraid`), its port and the firewall; "
    "a refused certificate (expired, revoked, of another cluster) looks the same from here"
)
_HINTS = {
    "UNIMPLEMENTED": "the server runs an older version: compare with `clusteractl version`",
    "RESOURCE_EXHAUSTED": "a message may have at most 1 MiB; is a name, a list or a file too long?",
}


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


def no_answer(target: str, reason: str) -> Unreachable:
    """The error of a call that got no answer from the target, for that reason."""
    return Unreachable(target, reason, _UNREACHABLE_FIX)


def meaning(status_name: str, sentence: str, metadata: Mapping[str, str], target: str) -> ClusterAIError:
    """Return what a call means that ended with a gRPC status: the peer's own error, or why there is no answer.

    Args:
        status_name: the name of the `grpc.StatusCode` member.
        sentence: what the peer said; may be empty.
        metadata: the trailing metadata, those with text values.
        target: whom the call was for, for the person.
    """
    status = next((status for status in Status if status.grpc_name == status_name), Status.INTERNAL)
    sentence = sentence or status_name
    if CODE_KEY in metadata:
        return RemoteError(metadata[CODE_KEY], status, sentence, unquote(metadata.get(HINT_KEY, "")))
    if status is Status.UNREACHABLE:
        return no_answer(target, sentence)
    if status is Status.TIMED_OUT:
        return TimedOut(what=f"the call to {target}", limit="allowed")
    code = status_name.lower().replace("_", "-")
    return RemoteError(code, status, f"{target}: {sentence}", _HINTS.get(status_name, _JOURNAL))
