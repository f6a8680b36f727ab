"""What Open WebUI is told beside what its unit says: secrets, in a file that systemd reads for it."""

import json
import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

from clusterai.api_keys import ApiKey, BadKey
from clusterai.files import BadFile, read_limited, write_atomic

_FILE_LIMIT = 1 << 16
_MODE = 0o640  # the directory is setgid: its group, Open WebUI's, reads it
_LINE = re.compile(r"([A-Z][A-Z0-9_]*)='([^'\n]*)'")
_CONFIGS, _SECRET = "OLLAMA_API_CONFIGS", "WEBUI_SECRET_KEY"


@dataclass(frozen=True)
class WebuiSettings:
    """Open WebUI's key at the gateway, if it has one, and the secret that signs its users' sessions."""

    key: str = field(default="", repr=False)
    session_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @classmethod
    def load(cls, path: Path) -> "WebuiSettings":
        """Return what the file says; new ones where there is none: nobody is signed out by a second set-up."""
        try:
            values = dict(_LINE.findall(read_limited(path, _FILE_LIMIT).decode(errors="replace")))
        except BadFile:
            values = {}
        settings = cls(session_secret=values[_SECRET]) if values.get(_SECRET) else cls()
        return replace(settings, key=_key_in(values.get(_CONFIGS, "")))

    @property
    def key_id(self) -> str:
        """The id of the key; empty without one."""
        try:
            return ApiKey.parse(self.key).key_id
        except BadKey:
            return ""

    def save(self, path: Path, gateway: str) -> None:
        """Write the file; `gateway` is the gateway's URL on this machine. Raises CannotWrite."""
        values = {
            _SECRET: self.session_secret,
            "OLLAMA_BASE_URL": gateway,
            _CONFIGS: json.dumps(self._connections()),
            "RAG_OLLAMA_BASE_URL": gateway,
            "RAG_OLLAMA_API_KEY": self.key,
        }
        text = "# Written by `clusteraid setup open-webui`. Other settings: systemctl edit open-webui.service\n"
        text += "".join(f"{name}='{value}'\n" for name, value in values.items())
        write_atomic(path, text.encode(), _MODE)

    def hand_over(self, data: Path, gateway: str) -> None:
        """Leave the connection in its data directory too. Raises CannotWrite.

        What Open WebUI has once started with is in its database, which counts for more than the environment; what lies
        in `config.json` at a start it takes over into the database (`import_legacy_config_json` of its config.py).
        """
        values = {
            "ollama.enable": True, "ollama.base_urls": [gateway], "ollama.api_configs": self._connections(),
            "rag.ollama.base_url": gateway, "rag.ollama.api_key": self.key,
        }
        of_data = data.stat()
        write_atomic(data / "config.json", json.dumps(values).encode(), owner=(of_data.st_uid, of_data.st_gid))

    def _connections(self) -> dict[str, object]:
        return {"0": {"enable": True, "key": self.key}}


def _key_in(configs: str) -> str:
    try:
        return str(json.loads(configs)["0"]["key"])
    except (ValueError, LookupError, TypeError):
        return ""
