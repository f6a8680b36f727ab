"""What a server shows of itself before anything is trusted: its certificates, and by them what time it has."""

import asyncio
import os
import ssl
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from clusterai.credentials import validity
from clusterai.errors import ClusterAIError, Status, Unreachable
from clusterai.remote import SERVER_NAME, join_address
from clusterai.termux import how_to_set_the_clock

_CONNECT_SECONDS = 10


class ClockDiffers(ClusterAIError):
    code, status = "clock-differs", Status.FAILED
    message = (
        "this machine's clock says {here}; by its certificates the clock of {address} says a time "
        "from {first} to {last}"
    )
    hint = "one of the two is wrong. If it is this one: {fix}. A running agent then goes on by itself; else try again"

    def __init__(self, address: str, here: datetime, first: datetime, last: datetime) -> None:
        times = {"here": here, "first": first, "last": last}
        shown = {name: f"{time:%F %T} UTC" for name, time in times.items()}
        super().__init__(address=address, fix=how_to_set_the_clock(), **shown)


async def shown_chain(host: str, port: int) -> tuple[bytes, ...]:
    """Return the DER certificates that the server shows, leaf first. Nothing is verified here: the caller compares.

    Raises:
        Unreachable: no TLS server answers there.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    target = join_address(host, port)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=SERVER_NAME)
    except TimeoutError as error:
        raise Unreachable(target, f"no answer within {_CONNECT_SECONDS} s") from error
    except ssl.SSLError as error:
        raise Unreachable(target, "what answers there does not speak TLS", "give the enrolment port (7444)") from error
    except (OSError, ValueError) as error:
        raise Unreachable(target, _cause(error)) from error
    try:
        return _chain_of(writer.get_extra_info("ssl_object"))
    finally:
        writer.transport.abort()


def check_clock(address: str, chain: Sequence[bytes], now: datetime) -> None:
    """Say what a failed handshake could not: that the certificates are not valid by this machine's clock.

    Raises:
        ClockDiffers: they are not.
        ValueError: one is no certificate.
    """
    lives = [validity(der) for der in chain]
    first, last = max(life[0] for life in lives), min(life[1] for life in lives)
    if not first <= now <= last:
        raise ClockDiffers(address, now, first, last)


def _cause(error: OSError | ValueError) -> str:
    """What the system says; asyncio puts words of its own with the address into a failed connect."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return getattr(error, "strerror", None) or str(error)


def _chain_of(connection: Any) -> tuple[bytes, ...]:
    """The peer's chain: public API from Python 3.13 on, the same call on the inner object before."""
    if hasattr(connection, "get_unverified_chain"):
        return tuple(connection.get_unverified_chain())
    return tuple(ssl.PEM_cert_to_DER_cert(part.public_bytes()) for part in connection._sslobj.get_unverified_chain())  # noqa: SLF001
