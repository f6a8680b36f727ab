"""The code that two people compare when a node joins without a token (docs/trust.md says why it binds)."""

import base64
import hashlib
import secrets

NONCE_BYTES = 32
_DOMAIN = b"clusterai approval code v1"


def new_nonce() -> bytes:
    """Return the 32 random bytes that one side brings to an approval."""
    return secrets.token_bytes(NONCE_BYTES)


def commitment(nonce: bytes) -> bytes:
    """What the node sends first: it fixes its nonce without showing it."""
    return hashlib.sha256(nonce).digest()


def approval_code(ca_spki_sha256: bytes, csr_der: bytes, node_nonce: bytes, server_nonce: bytes) -> str:
    """Return the code, "ABC-DEF": 30 bits of a hash over the server's CA, the node's request, and both nonces."""
    digest = hashlib.sha256(_DOMAIN)
    for part in (ca_spki_sha256, csr_der, node_nonce, server_nonce):
        digest.update(len(part).to_bytes(8, "big") + part)
    text = base64.b32encode(digest.digest()).decode()
    return f"{text[:3]}-{text[3:6]}"
