"""What OpenSSL's own program is asked, and how its answers read.

It makes keys on phones: Termux's package of cryptography fetches and compiles when it is installed.
"""

import base64
import hashlib
import re

# Prints a new key and its request. They come through a pipe: a key never touches the disk before its place.
REQUEST = (
    "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-sha256",
    "-subj", "/", "-config", "-", "-keyout", "-",
)  # fmt: skip
# A request names nobody and asks for nothing, whatever the machine's own configuration adds to requests.
CONFIGURATION = b"[req]\ndistinguished_name = nobody\n[nobody]\n"
PUBLIC_KEY = ("openssl", "x509", "-inform", "DER", "-noout", "-pubkey")

_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----\n([A-Za-z0-9+/=\n]+)-----END \1-----\n")


def key_and_request(output: bytes) -> tuple[bytes, bytes]:
    """Return the key (PKCS#8 PEM) and the request (DER) that REQUEST printed; raise ValueError for anything else."""
    blocks = {match[1]: match for match in _BLOCK.finditer(output)}
    if set(blocks) != {b"PRIVATE KEY", b"CERTIFICATE REQUEST"}:
        raise ValueError("openssl printed no key and request")
    return blocks[b"PRIVATE KEY"][0], base64.b64decode(blocks[b"CERTIFICATE REQUEST"][2])


def spki_sha256(output: bytes) -> bytes:
    """Return the SHA-256 of the SubjectPublicKeyInfo that PUBLIC_KEY printed; empty when it printed none."""
    match = _BLOCK.fullmatch(output)
    return hashlib.sha256(base64.b64decode(match[2])).digest() if match and match[1] == b"PUBLIC KEY" else b""
