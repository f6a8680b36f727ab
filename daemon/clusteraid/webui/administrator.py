"""Open WebUI's first account, made at its first start: whoever came first otherwise would be its administrator."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clusterai.errors import ClusterAIError, Status
from clusterai.files import write_atomic

_MODE = 0o640  # the directory is setgid: its group, Open WebUI's, reads it
_MAIL = re.compile(r"[^\s@'\"\\]{1,64}@[^\s@'\"\\]{1,189}")
_SHORTEST, _LONGEST_BYTES = 8, 72  # bcrypt hashes no more


class BadAdministrator(ClusterAIError):
    code, status = "bad-administrator", Status.USAGE
    message = "{what}"
    hint = "give a mail address by --admin, and a password of 8 characters or more (at most 72 bytes)"


class AdministratorNeeded(ClusterAIError):
    code, status = "administrator-needed", Status.USAGE
    message = "Open WebUI has no account yet, and whoever came first would be its administrator"
    hint = "say who it is: `sudo clusteraid setup open-webui --admin MAIL` asks for a password, or add --password-file"


@dataclass(frozen=True)
class Administrator:
    """Who it is. Raises BadAdministrator where mail or password cannot be one."""

    mail: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _MAIL.fullmatch(self.mail):
            raise BadAdministrator(what=f"{self.mail[:80]!r} is no mail address")
        if len(self.password) < _SHORTEST or len(self.password.encode()) > _LONGEST_BYTES:
            raise BadAdministrator(what="the password is too short or too long")
        if not self.password.isprintable():
            raise BadAdministrator(what="the password has a character that nobody can type")

    @contextmanager
    def told(self, path: Path) -> Iterator[None]:
        """Leave them in a file that the unit reads at its start, until the end of the block. Raises CannotWrite."""
        escaped = self.password.replace("\\", "\\\\").replace('"', '\\"')
        name = self.mail.partition("@")[0]
        values = {"EMAIL": f"'{self.mail}'", "NAME": f"'{name}'", "PASSWORD": f'"{escaped}"'}
        text = "".join(f"WEBUI_ADMIN_{key}={value}\n" for key, value in values.items())
        try:
            write_atomic(path, text.encode(), _MODE)
            yield
        finally:
            path.unlink(missing_ok=True)
