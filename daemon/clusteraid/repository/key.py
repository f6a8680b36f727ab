"""The key that signs the repository: ed25519, made at its first use, one file in the daemon's state directory."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from clusterai.errors import ClusterAIError, Status
from clusterai.files import CannotWrite, read_limited, write_atomic
from clusteraid.repository.tools import ToolFailed, ToolMissing, run

log = logging.getLogger(__name__)
FILE = "repository-key.asc"
_GPG_HOME = "gpg"
_LONGEST_SOCKET, _SOCKET_PATH_LIMIT = "S.gpg-agent.browser", 107  # the agent's; the kernel's limit in bytes
_OWNER = "Cluster AI package repository"
_FILE_LIMIT = 1 << 16
_GPG = ("--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")


class KeyLost(ClusterAIError):
    code, status = "repository-key-lost", Status.FAILED
    message = "the key of the repository, {path}, is missing"
    hint = (
        "restore it from a backup; if there is none, remove {published}, add the packages again, and run "
        "the installer of a new `clusteractl token create` on every machine: they trust the old key only"
    )


class PathTooLong(ClusterAIError):
    code, status = "path-too-long", Status.USAGE
    message = "gpg cannot work in {home}: its sockets would have paths of more than {limit} bytes"
    hint = "set `state_directory` below `[server]` to a shorter path"


@dataclass(frozen=True)
class PublicKey:
    """The public half: as text, as bytes, and its fingerprint (40 hexadecimal digits)."""

    armoured: str
    binary: bytes
    fingerprint: str


class SigningKey:
    """Signs with the key in the file. gpg and its agent live in a directory beside it, as long as one task takes.

    One at a time: the caller holds the repository's lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make a key when there is none; an existing one is never replaced."""
        if self.path.exists():
            return
        with self._gpg_home() as home:
            run("gpg", *_at(home), "--quick-generate-key", _OWNER, "ed25519", "sign", "never")
            secret = run("gpg", *_at(home), "--armor", "--export-secret-keys")
        write_atomic(self.path, secret)
        log.info("made the key of the repository: %s; back it up", self.path)

    def require(self, published: Path) -> None:
        """Raise KeyLost when the key of what is published is missing."""
        if not self.path.exists():
            raise KeyLost(path=self.path, published=published)

    def public(self) -> PublicKey:
        """Return the public half."""
        with self._imported() as home:
            options = (*_at(home), "--export-options", "export-minimal", "--export")
            listed = run("gpg", *_at(home), "--with-colons", "--list-keys").decode().splitlines()
            fingerprint = next(line.split(":")[9] for line in listed if line.startswith("fpr:"))
            return PublicKey(run("gpg", "--armor", *options).decode(), run("gpg", *options), fingerprint)

    def sign(self, text: bytes) -> bytes:
        """Return the text with its signature, as apt reads `InRelease`."""
        with self._imported() as home:
            return run("gpg", *_at(home), "--digest-algo", "SHA512", "--clear-sign", given=text)

    @contextmanager
    def _imported(self) -> Iterator[Path]:
        secret = read_limited(self.path, _FILE_LIMIT)
        with self._gpg_home() as home:
            run("gpg", *_at(home), "--import", given=secret)
            yield home

    @contextmanager
    def _gpg_home(self) -> Iterator[Path]:
        """An empty directory for gpg; what an interrupted run left there goes first, with its agent."""
        home = self.path.with_name(_GPG_HOME)
        if len(os.fsencode((home / _LONGEST_SOCKET).absolute())) > _SOCKET_PATH_LIMIT:
            raise PathTooLong(home=home, limit=_SOCKET_PATH_LIMIT)
        _clear(home)
        try:
            home.mkdir(mode=0o700)
        except OSError as error:
            raise CannotWrite(home, error) from error
        try:
            yield home
        finally:
            _clear(home)


def _clear(home: Path) -> None:
    if home.is_dir():
        with suppress(ToolFailed, ToolMissing):
            run("gpgconf", "--homedir", home, "--kill", "all")
        shutil.rmtree(home, ignore_errors=True)


def _at(home: Path) -> tuple[str, ...]:
    return (*_GPG, "--homedir", os.fspath(home))


def content_if_signed(signed: Path, key: Path) -> str:
    """Return what was signed with the key (binary) in the file; raise ToolFailed when the signature is not good."""
    told = run("gpgv", "--quiet", "--keyring", key.absolute(), "--output", "-", signed.absolute())
    return told.decode(errors="replace")
