"""A server whose gateway serves packages for phones, and the line that a phone's owner pastes."""

import hashlib
from dataclasses import dataclass

from clusteractl.views.lists import phone_line
from clusterai.v1.token_pb2 import ROLE_NODE, CreateTokenResponse, Token
from support.debs import Server
from support.gateway import Gateway

NO_TOKEN = "cai1." + "a" * 52 + ".k3v7q2xa." + "b" * 26


@dataclass(frozen=True)
class Shop:
    """The gateway and its repository."""

    gateway: Gateway
    server: Server

    @property
    def url(self) -> str:
        """Where the repository is served."""
        return f"https://localhost:{self.gateway.https_port}/repo"

    def line(self, token: str = NO_TOKEN, enrollment: str = "127.0.0.1:9") -> str:
        """Return the line that `clusteractl token create --phone` prints."""
        script = (self.server.current / "setup.sh").read_bytes()
        reply = CreateTokenResponse(
            token=token, details=Token(role=ROLE_NODE), server_addresses=[enrollment],
            setup_url=f"{self.url}/setup.sh", setup_sha256=hashlib.sha256(script).hexdigest(),
        )  # fmt: skip
        return phone_line(reply)
