"""A key and its request, made by another program so that no key maker stays in the agent's memory.

On phones that is OpenSSL's own, elsewhere `python -m clusterai.keytool`, with cryptography.
"""

import asyncio
import base64
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusterai import openssl
from clusterai.errors import ClusterAIError, Status
from clusterai.program import run_program
from clusterai.termux import is_android

_HELPER_SECONDS = 30  # a first import on a slow SD card


class Usage(ClusterAIError):
    code, status = "usage", Status.USAGE
    message = "usage: python -m clusterai.keytool request | fingerprints"


class KeyToolFailed(ClusterAIError):
    code, status = "key-tool-failed", Status.FAILED
    message = "could not make or read a key: {reason}"
    hint = "{fix}"

    def __init__(self, reason: str) -> None:
        here = f"is python3-cryptography installed? try: {sys.executable} -c 'import cryptography'"
        on_a_phone = "is OpenSSL's program installed? try: `pkg install openssl-tool`, then `openssl version`"
        super().__init__(reason=reason, fix=on_a_phone if is_android() else here)


@dataclass(frozen=True)
class KeyRequest:
    """A new private key (PEM) and the request for its certificate (DER)."""

    key_pem: bytes = field(repr=False)
    csr_der: bytes


async def request_in_helper() -> KeyRequest:
    """Make a key and its request in a helper process; raise KeyToolFailed when it cannot."""
    if is_android():
        try:
            return KeyRequest(*openssl.key_and_request(await _checked(openssl.REQUEST, openssl.CONFIGURATION)))
        except ValueError as error:
            raise KeyToolFailed(str(error)) from error
    answer = await _run_helper("request", [])
    return KeyRequest(answer["key_pem"].encode(), base64.b64decode(answer["csr"]))


async def fingerprints_in_helper(certificates_der: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return the SHA-256 of each certificate's SPKI, from a helper process; empty for what is no certificate.

    Raises:
        KeyToolFailed: the helper cannot run.
    """
    if is_android():
        return tuple([openssl.spki_sha256((await _ended(openssl.PUBLIC_KEY, der))[1]) for der in certificates_der])
    answer = await _run_helper("fingerprints", [base64.b64encode(der).decode() for der in certificates_der])
    return tuple(bytes.fromhex(text) for text in answer["fingerprints"])


async def _run_helper(command: str, value: list[str]) -> dict[str, Any]:
    """Run this module as a program, JSON in and out through pipes: a key never touches the disk before its place."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    program = (sys.executable, "-P", "-m", "clusterai.keytool", command)
    answer: dict[str, Any] = json.loads(await _checked(program, json.dumps(value).encode(), PYTHONPATH=path))
    return answer


async def _checked(command: Sequence[str], given: bytes, **variables: str) -> bytes:
    """What the program prints; raise KeyToolFailed when it fails."""
    status, output, errors = await _ended(command, given, **variables)
    if status:
        raise KeyToolFailed(errors.decode(errors="replace").strip()[-300:])
    return output


async def _ended(command: Sequence[str], given: bytes, **variables: str) -> tuple[int | None, bytes, bytes]:
    """The exit status of the program, its output and its complaints."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, **variables}
        )
    except OSError as error:
        raise KeyToolFailed(f"{command[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            output, errors = await process.communicate(given)
    except TimeoutError as error:
        raise KeyToolFailed(f"{command[0]} did not end within {_HELPER_SECONDS} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output, errors


def _answer(arguments: list[str]) -> str:
    """What the program prints."""
    from clusterai import pki  # only in the helper process: it costs 10 MB

    match arguments:
        case ["request"]:
            key = pki.new_key()
            csr = base64.b64encode(pki.new_csr(key)).decode()
            return json.dumps({"key_pem": pki.key_pem(key).decode(), "csr": csr})
        case ["fingerprints"]:
            certificates = [base64.b64decode(text) for text in json.load(sys.stdin)]
            return json.dumps({"fingerprints": [_fingerprint(der) for der in certificates]})
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
