"""Options of gRPC, errors across the wire, and addresses."""

from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc

from clusterai.errors import ClusterAIError, Status, TimedOut, Unreachable
from clusterai.remote import BadAddress, RemoteError, join_address, split_address
from clusterai.rpc import CLIENT_OPTIONS, SERVER_OPTIONS, error_metadata, from_rpc_error, status_of


class NoRoom(ClusterAIError):
    code, status = "no-room", Status.EXHAUSTED
    message = "no room for {name}"
    hint = "remove {name}: 100 % full"


def failed(code: grpc.StatusCode, details: str, metadata: tuple[tuple[str, str], ...] = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details, "")


def test_an_error_arrives_as_it_left() -> None:
    error = NoRoom(name="Żółw\n")
    metadata = error_metadata(error)
    assert all(value.isascii() and value.isprintable() for _, value in metadata)
    arrived = from_rpc_error(failed(status_of(error), str(error), metadata), "tower:7443")
    assert isinstance(arrived, RemoteError)
    assert (arrived.code, arrived.status, str(arrived), arrived.advice) == (
        "no-room",
        Status.EXHAUSTED,
        "no room for Żółw\n",
        "remove Żółw\n: 100 % full",
    )


def test_a_hint_without_end_is_cut() -> None:
    assert sum(len(value) for _, value in error_metadata(NoRoom(name="ü" * 10_000))) < 3000


def test_no_answer_is_unreachable_and_says_what_it_may_be() -> None:
    error = from_rpc_error(failed(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses"), "tower:7443")
    assert isinstance(error, Unreachable)
    assert "tower:7443" in str(error)
    assert "certificate" in error.advice
    assert error.status.exit_code == 5


def test_a_late_answer_is_timed_out() -> None:
    assert isinstance(from_rpc_error(failed(grpc.StatusCode.DEADLINE_EXCEEDED, "x"), "tower"), TimedOut)


def test_an_unknown_method_points_at_versions() -> None:
    error = from_rpc_error(failed(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"), "tower")
    assert "clusteractl version" in error.advice


def test_every_status_has_a_grpc_code() -> None:
    class Any(ClusterAIError):
        message = "x"

    for status in Status:
        error = Any()
        error.status = status
        assert from_rpc_error(failed(status_of(error), "x", (("clusterai-code", "c"),)), "t").status in Status


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tower", "tower", 7444),
        ("tower.local:1", "tower.local", 1),
        (" 10.0.0.1:7443\n", "10.0.0.1", 7443),
        ("::1", "::1", 7444),
        ("[::1]:80", "::1", 80),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("fe80::1%eth0", "fe80::1%eth0", 7444),
    ],
)
def test_an_address_is_split(text: str, host: str, port: int) -> None:
    assert split_address(text, 7444) == (host, port)
    assert split_address(join_address(host, port), 1) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "a:0",
        "a:70000",
        "a:b",
        "a b",
        "a/b",
        "http://tower",
        "ä",
        "a\0",
        "x" * 10_000,
        "[::1",
        "a:1:x",
        "unix:/run/x",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadAddress) as refused:
        split_address(text, 7444)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("option", sorted({name for name, _ in (*CLIENT_OPTIONS, *SERVER_OPTIONS)}))
def test_every_option_is_one_that_grpc_knows(option: str) -> None:
    """GRPC ignores others silently. With a wrong one servers took keepalive for an attack and ended idle streams."""
    assert option.encode() + b"\0" in Path(cygrpc.__file__).read_bytes()
