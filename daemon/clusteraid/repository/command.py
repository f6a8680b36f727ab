"""`clusteraid repo`: what the server publishes for its nodes. Root works as the directory's owner, never as root."""

import argparse
import json
import logging
import os
import pwd
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clusterai.errors import ClusterAIError, Status
from clusterai.files import BadFile, CannotWrite, read_limited
from clusterai.program import run_program
from clusteraid.config import DEFAULT_FILE, DaemonConfig, load_config
from clusteraid.repository.contents import NoSuchPackage
from clusteraid.repository.key import FILE, SigningKey
from clusteraid.repository.package import Package
from clusteraid.repository.repository import Repository, open_file
from clusteraid.repository.setup import setup_script

PROGRAM = "clusteraid repo"
_UMASK = 0o027  # the gateway's group reads, which the directory's setgid bit gives to all in it
_PEM_LIMIT = 1 << 16


class NoRepository(ClusterAIError):
    code, status = "no-repository", Status.FAILED
    message = "there is no {directory} on this machine"
    hint = "the repository is on the server, where the package clusteraid is installed"


class NotOurs(ClusterAIError):
    code, status = "not-permitted", Status.DENIED
    message = "{directory} belongs to {owner}"
    hint = "run it with sudo"


class NotStarted(ClusterAIError):
    code, status = "no-authority", Status.FAILED
    message = "this cluster has no authority yet ({reason})"
    hint = "start the daemon once: `sudo systemctl start clusteraid`"


def main(arguments: Sequence[str]) -> int:
    """Run the command line after `clusteraid repo` and return the exit code."""
    given = _parse(arguments)
    return run_program(lambda: _run(given), PROGRAM)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(PROGRAM, description="The packages that this server publishes for its nodes.")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"the daemon's configuration [{DEFAULT_FILE}]")
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    add = commands.add_parser("add", help="publish packages", description="Publishes packages, all or none of them.")
    add.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a .deb for Debian, Ubuntu or Termux")
    listing = commands.add_parser("list", help="show what is published")
    listing.add_argument("--json", action="store_true", help="print JSON")
    remove = commands.add_parser("remove", help="withdraw a package")
    remove.add_argument("package", metavar="NAME[=VERSION]", help="all its versions, or one")
    commands.add_parser("renew", help="sign anew where that is due; a timer does it every day")
    return parser.parse_args(arguments)


async def _run(given: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = load_config(given.config)
    with ExitStack() as opened:
        files = [opened.enter_context(open_file(path)) for path in getattr(given, "files", ())]  # as who called
        _become_owner(config.repository.directory)
        repository = open_repository(config)
        match given.what:
            case "add":
                _tell("published", repository.add(files))
            case "remove":
                name, _, version = given.package.partition("=")
                if given.package.endswith("="):
                    raise NoSuchPackage(wanted=given.package)
                _tell("withdrawn", repository.remove(name, version))
            case "renew":
                print("signed anew" if repository.renew() else "nothing is due")
            case _:
                _show(repository.packages(), as_json=given.json)
    return 0


def open_repository(config: DaemonConfig) -> Repository:
    """Return the repository of this configuration."""
    key = SigningKey(config.server.state_directory / FILE)
    authority = config.server.state_directory / "pki" / "cluster-ca.pem"

    def setup(public: str, fingerprint: str) -> bytes:
        try:
            ca_pem = read_limited(authority, _PEM_LIMIT).decode()
        except BadFile as error:
            raise NotStarted(reason=error) from error
        return setup_script("" if config.gateway.certificate else ca_pem, public, fingerprint)

    return Repository(config.repository.directory, key, config.repository.keep_versions, setup)


def _become_owner(directory: Path) -> None:
    """Give up root's rights for those of the directory's owner, for good; packages are read by nobody else."""
    try:
        owner = directory.stat()
    except FileNotFoundError as error:
        raise NoRepository(directory=directory) from error
    except OSError as error:
        raise CannotWrite(directory, error) from error
    os.umask(_UMASK)
    if os.geteuid() == owner.st_uid:
        return
    if os.geteuid() != 0:
        raise NotOurs(directory=directory, owner=_name_of(owner.st_uid))
    group = _group_of(owner)
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
    os.chdir("/")


def _group_of(owner: os.stat_result) -> int:
    """The owner's own group: the directory's is the gateway's."""
    try:
        return pwd.getpwuid(owner.st_uid).pw_gid
    except KeyError:
        return owner.st_gid


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"the user {user}"


def _tell(verb: str, packages: Sequence[Package]) -> None:
    for package in packages:
        print(f"{verb} {package}")


def _show(packages: Sequence[Package], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"packages": [_shown(package) for package in packages]}, indent=2))
        return
    if not packages:
        print("Nothing is published. Publish packages with: sudo clusteraid repo add FILE...")
        return
    width = max(len(package.name) for package in packages)
    for package in packages:
        print(f"{package.distribution.value:7} {package.name:{width}} {package.version:20} {package.architecture}")


def _shown(package: Package) -> dict[str, Any]:
    return {**asdict(package), "distribution": package.distribution.value}
