"""`python -m clusterai.keytool`: a key and its request, in a process of its own so that cryptography ends with it."""

import base64
import sys
from pathlib import Path

from clusterai.errors import ClusterAIError, Status
from clusterai.files import write_atomic
from clusterai.pki import certificate_expiry, key_pem, new_csr, new_key
from clusterai.program import run_program


class Usage(ClusterAIError):
    code, status = "usage", Status.USAGE
    message = "usage: python -m clusterai.keytool csr OUT.key | expiry FILE"


def make_request(key_file: Path) -> str:
    """Write a new key to the file (mode 0600) and return its certificate request: DER in base64."""
    key = new_key()
    write_atomic(key_file, key_pem(key))
    return base64.b64encode(new_csr(key)).decode()


async def _run(arguments: list[str]) -> None:
    match arguments:
        case ["csr", key_file]:
            print(make_request(Path(key_file)))
        case ["expiry", file]:
            print(int(certificate_expiry(Path(file).read_bytes()).timestamp()))
        case _:
            raise Usage


if __name__ == "__main__":
    sys.exit(run_program(lambda: _run(sys.argv[1:]), "keytool"))
