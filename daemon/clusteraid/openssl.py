"""The daemon's settings of OpenSSL: the machine's own, and no session tickets (docs/decisions/handshakes.md).

gRPC has no option for it. The distribution's gRPC and Python share one OpenSSL, which reads one file, once.
"""

import os
from pathlib import Path

_VARIABLE = "OPENSSL_CONF"
_FILE = Path(__file__).with_name("data") / "openssl.cnf"
_INCLUDED = Path("/etc/ssl/openssl.cnf")


def load() -> None:
    """Have OpenSSL read our file, unless the environment names another. It counts only before anything loads OpenSSL.

    Where the machine has its own file elsewhere, OpenSSL reads that one alone; where it is damaged, it does without.
    """
    if _VARIABLE in os.environ or not _INCLUDED.exists():
        return
    os.environ[_VARIABLE] = str(_FILE)
    try:
        import ssl

        try:  # Python 3.11 has it read at the import, 3.13 with the first context
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        except ssl.SSLError:
            return
    finally:
        del os.environ[_VARIABLE]  # it is not for children
