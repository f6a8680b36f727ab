"""`clusteraid setup`: what an administrator adds to a server."""

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clusterai.environment import IndexConfig
from clusterai.errors import ClusterAIError, Status
from clusterai.files import read_limited
from clusterai.program import run_program
from clusterai.units import UnitsConfig, open_units
from clusteraid.config import DEFAULT_FILE, load_config
from clusteraid.local_watch import Show, Stage
from clusteraid.webui.administrator import Administrator, AdministratorNeeded, BadAdministrator
from clusteraid.webui.setup import SetupOptions, set_up

PROGRAM = "clusteraid setup"
_PASSWORD_LIMIT = 4096


class NeedsRoot(ClusterAIError):
    code, status = "needs-root", Status.DENIED
    message = "installing for the whole machine takes root's rights"
    hint = "run it with sudo"


def main(arguments: Sequence[str]) -> int:
    """Run the command line after `clusteraid setup` and return the exit code."""
    given = _parse(arguments)
    return run_program(lambda: _open_webui(given), PROGRAM)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(PROGRAM, description="What an administrator adds to a server.")
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    webui = commands.add_parser(
        "open-webui", help="chat in the browser, with the models of this cluster",
        description="Installs Open WebUI, or upgrades it, and starts it.",
    )
    webui.add_argument("--wheels", type=Path, metavar="DIR", help="take packages only from this directory of wheels")
    webui.add_argument("--index-url", default="", metavar="URL", help="package index [pip's own configuration]")
    webui.add_argument("--admin", default="", metavar="MAIL", help="who shall be its administrator, at the first time")
    webui.add_argument("--password-file", type=Path, metavar="FILE", help="the administrator's password [asked for]")
    webui.add_argument("--config", type=Path, metavar="FILE", help=f"the daemon's configuration [{DEFAULT_FILE}]")
    return parser.parse_args(arguments)


async def _open_webui(given: argparse.Namespace) -> int:
    config = load_config(given.config)
    if os.geteuid() != 0:
        raise NeedsRoot
    index = IndexConfig(given.index_url, given.wheels and given.wheels.absolute(), offline=given.wheels is not None)
    options = SetupOptions(config.server.socket, config.gateway.port, index)
    if given.admin or not options.has_started_before:
        options = replace(options, administrator=_administrator(given))
    show = Show()
    async with open_units(UnitsConfig()) as units:
        version = await set_up(options, units, lambda ratio, text: show(Stage("environment", ratio, text)))
    show.done()
    print(f"Open WebUI {version} runs: https://{os.uname().nodename}/")
    if options.administrator:
        print(f"Sign in there as {options.administrator.mail}; as its administrator you add the others.")
    return 0


def _administrator(given: argparse.Namespace) -> Administrator:
    """Who was named; what was not said is asked for on a terminal. Raises AdministratorNeeded, BadAdministrator."""
    if given.password_file is not None:
        password = read_limited(given.password_file, _PASSWORD_LIMIT).decode(errors="replace").rstrip("\r\n")
    elif not sys.stdin.isatty():
        raise AdministratorNeeded
    else:
        given.admin = given.admin or input("Mail address of Open WebUI's administrator: ").strip()
        password = getpass.getpass(f"A password for {given.admin}: ")
        if getpass.getpass("Once more: ") != password:
            raise BadAdministrator(what="the two passwords differ")
    if not given.admin:
        raise AdministratorNeeded
    return Administrator(given.admin, password)
