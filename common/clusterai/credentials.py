"""A certificate with its key in one file, without the cryptography package: the agent keeps its memory small."""

import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from clusterai.files import BadFile, read_limited, write_atomic

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\n.*?-----END \1-----\n?", re.DOTALL)
_FILE_LIMIT = 1 << 16
_RENEW_AT = 2 / 3  # of the certificate's life, as step-ca does
_JITTER = 1 / 20


@dataclass(frozen=True)
class Credentials:
    """A private key and its chain (leaf first), PEM, with the leaf's validity."""

    key_pem: bytes
    chain_pem: bytes
    not_before: datetime
    not_after: datetime


def load_credentials(path: Path) -> Credentials:
    """Return key and chain of a combined PEM file; raise BadFile when it is unreadable or not such a file."""
    blocks = [(match[1], match[0]) for match in _BLOCK.finditer(read_limited(path, _FILE_LIMIT))]
    keys = [block for label, block in blocks if label.endswith(b"PRIVATE KEY")]
    certificates = [block for label, block in blocks if label == b"CERTIFICATE"]
    if len(keys) != 1 or not certificates:
        raise BadFile(path, "not one private key and its certificate chain in PEM", "remove it and join again")
    try:
        not_before, not_after = validity(ssl.PEM_cert_to_DER_cert(certificates[0].decode()))
    except ValueError as error:
        raise BadFile(path, f"no readable certificate ({error})", "remove it and join again") from error
    return Credentials(keys[0], b"".join(certificates), not_before, not_after)


def save_credentials(path: Path, key_pem: bytes, chain_pem: bytes, mode: int = 0o600) -> None:
    """Replace the combined file atomically: no reader ever sees a key beside another key's certificate."""
    write_atomic(path, key_pem.rstrip() + b"\n" + chain_pem, mode)


def chain_pem(chain_der: Iterable[bytes]) -> bytes:
    """Return DER certificates as one PEM text, in the same order."""
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in chain_der).encode()


def renewal_due(not_before: datetime, not_after: datetime, now: datetime, jitter: float) -> bool:
    """Whether to renew now: from 2/3 of life on, later by up to 1/20 of it as jitter (0..1) says."""
    return now >= renewal_time(not_before, not_after, jitter)


def renewal_time(not_before: datetime, not_after: datetime, jitter: float) -> datetime:
    """When a certificate of this validity is to be renewed; jitter in 0..1 spreads many of the same age."""
    return not_before + (not_after - not_before) * (_RENEW_AT + _JITTER * jitter)


def validity(certificate_der: bytes) -> tuple[datetime, datetime]:
    """Return notBefore and notAfter of a DER certificate; raise ValueError when it is none (RFC 5280, 4.1).

    The certificate is a sequence whose first part is a sequence of [0] version, serial, algorithm, issuer, validity.
    """
    _, certificate = next(iter(_elements(certificate_der)), (0, b""))
    _, signed_part = next(iter(_elements(certificate)), (0, b""))
    fields = [content for tag, content in _elements(signed_part) if tag != 0xA0]
    times = [_time(tag, content) for tag, content in _elements(fields[3])] if len(fields) > 3 else []
    if len(times) != 2:
        raise ValueError("not a DER certificate")
    return times[0], times[1]


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Split DER content into its elements as tag and content."""
    elements, position = [], 0
    while position < len(data):
        start, length = _header(data, position)
        if start + length > len(data):
            raise ValueError("a DER element ends too early")
        elements.append((data[position], data[start : start + length]))
        position = start + length
    return elements


def _header(data: bytes, position: int) -> tuple[int, int]:
    """Where the content of the element at the position starts, and how long it is (X.690, 8.1.3)."""
    octets = data[position + 1 : position + 2]
    if not octets:
        raise ValueError("a DER element ends too early")
    if octets[0] < 0x80:
        return position + 2, octets[0]
    count = octets[0] & 0x7F
    return position + 2 + count, int.from_bytes(data[position + 2 : position + 2 + count], "big")


def _time(tag: int, content: bytes) -> datetime:
    """A UTCTime (two-digit year, 1950 to 2049) or a GeneralizedTime."""
    text = content.decode("ascii")
    if tag == 0x17:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
