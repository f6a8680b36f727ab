"""The daemon's settings of OpenSSL: the machine's own, and no session tickets (docs/decisions/handshakes.md).

gRPC has no option for it. The distribution's gRPC and Python share one OpenSSL, which reads one file, once.
"""

import os
from pathlib import Path

_VARIABLE = "OPENSSL_CONF"
_FILE = Path(__file__).with_name("data") / "openssl.cnf"


def load() -> None:
    """Have OpenSSL read our file, unless the environment names another. It counts only before anything loads OpenSSL.

    A file that OpenSSL does not take, such as one that includes what is not there, leaves it as it is without any.
    """
    if _VARIABLE in os.environ:
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
