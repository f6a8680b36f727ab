"""`python -m clusterai.keytool`: a key and its request, in a process of its own so that cryptography ends with it."""

import asyncio
import base64
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusterai.errors import ClusterAIError, Status
from clusterai.files import write_atomic
from clusterai.program import run_program

_HELPER_SECONDS = 30  # a first import on a slow SD card


class Usage(ClusterAIError):
    code, status = "usage", Status.USAGE
    message = "usage: python -m clusterai.keytool csr OUT.key | request | fingerprints | expiry FILE"


class KeyToolFailed(ClusterAIError):
    code, status = "key-tool-failed", Status.FAILED
    message = "could not make or read a key: {reason}"
    hint = "is python3-cryptography installed? try: {python} -c 'import cryptography'"


@dataclass(frozen=True)
class KeyRequest:
    """A new private key (PEM) and the request for its certificate (DER)."""

    key_pem: bytes = field(repr=False)
    csr_der: bytes


async def request_in_helper() -> KeyRequest:
    """Make a key and its request in a helper process; raise KeyToolFailed when it cannot."""
    answer = await _run_helper("request", [])
    return KeyRequest(answer["key_pem"].encode(), base64.b64decode(answer["csr"]))


async def fingerprints_in_helper(certificates_der: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return the SHA-256 of each certificate's SPKI, computed in a helper process; empty for what is no certificate."""
    answer = await _run_helper("fingerprints", [base64.b64encode(der).decode() for der in certificates_der])
    return tuple(bytes.fromhex(text) for text in answer["fingerprints"])


async def _run_helper(command: str, value: list[str]) -> dict[str, Any]:
    """Run this module as a program, JSON in and out through pipes: a key never touches the disk before its place."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "clusterai.keytool", command,
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, "PYTHONPATH": path},
    )
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            output, errors = await process.communicate(json.dumps(value).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise KeyToolFailed(reason=errors.decode(errors="replace").strip()[-300:], python=sys.executable)
    answer: dict[str, Any] = json.loads(output)
    return answer


def _answer(arguments: list[str]) -> str:
    """What the program prints."""
    from clusterai import pki  # only in the helper process: it costs 10 MB

    match arguments:
        case ["csr", key_file]:
            key = pki.new_key()
            write_atomic(Path(key_file), pki.key_pem(key))
            return base64.b64encode(pki.new_csr(key)).decode()
        case ["request"]:
            key = pki.new_key()
            csr = base64.b64encode(pki.new_csr(key)).decode()
            return json.dumps({"key_pem": pki.key_pem(key).decode(), "csr": csr})
        case ["fingerprints"]:
            certificates = [base64.b64decode(text) for text in json.load(sys.stdin)]
            return json.dumps({"fingerprints": [_fingerprint(der) for der in certificates]})
        case ["expiry", file]:
            return str(int(pki.certificate_expiry(Path(file).read_bytes()).timestamp()))
        case _:
            raise Usage


def _fingerprint(certificate_der: bytes) -> str:
    from clusterai.pki import spki_sha256_of

    try:
        return spki_sha256_of(certificate_der).hex()
    except ValueError:
        return ""


async def _main() -> None:
    print(_answer(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(run_program(_main, "keytool"))
