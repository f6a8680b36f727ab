"""`clusteractl login` and `logout`: work with a cluster from another machine."""

import click

from clusteractl.command import Ctl, CtlCommand, pass_ctl
from clusteractl.errors import NotLoggedIn, NotOperator
from clusteractl.inputs import read_token
from clusteractl.words import moment
from clusterai.enroll_client import ENROLLMENT_PORT, Enrolled, enroll
from clusterai.ids import IdentityKind
from clusterai.remote import join_address, split_address

DEFAULT_PORT = 7443
_EXAMPLES = """
clusteractl login --server tower.lan
clusteractl login --server tower.lan --token-file token
ssh tower sudo clusteractl token create --role operator --name ann | clusteractl login --server tower.lan
"""


@click.command(cls=CtlCommand, examples=_EXAMPLES)
@click.option(
    "--server", required=True, metavar="HOST", help="The server, HOST or HOST:PORT of its enrolment port [7444]."
)
@click.option("--token-file", metavar="FILE", help="Read the token from this file, - is standard input [ask].")
@click.option("--name", default="", metavar="NAME", help="Your operator name [the one that the token is for].")
@pass_ctl
def login(ctl: Ctl, server: str, token_file: str | None, name: str) -> None:
    """Log in to a cluster with a token of its server.

    The server makes one with: clusteractl token create --role operator --name NAME. Your key never leaves this
    machine; certificate and key are kept in ~/.config/clusterai and renew themselves while you use them.
    """
    split_address(server, ENROLLMENT_PORT)
    token = read_token(token_file, asks=ctl.surroundings.asks)
    enrolled = ctl.run(enroll(server, token, name=name, facts=None))
    if enrolled.identity.kind is not IdentityKind.OPERATOR:
        raise NotOperator(kind=enrolled.identity.kind.value)
    _kept(ctl, server, enrolled)


@click.command(cls=CtlCommand, examples="clusteractl logout")
@pass_ctl
def logout(ctl: Ctl) -> None:
    """Forget the login on this machine. The certificate stays valid until its end unless an admin revokes it."""
    known = ctl.logins.load()
    if known is None or not ctl.logins.remove():
        raise NotLoggedIn(directory=ctl.logins.directory)
    text = f"Logged out. To make the certificate useless at once: clusteractl operator revoke {known.operator}"
    ctl.out.show({"operator_name": known.operator, "logged_in": False}, [text])


def _kept(ctl: Ctl, server: str, enrolled: Enrolled) -> None:
    """Store the login and say so."""
    logins, operator = ctl.logins, enrolled.identity.name
    addresses = reachable(server, enrolled.server_addresses)
    logins.save_credentials(enrolled.key_pem, enrolled.chain_pem)
    logins.save(operator, enrolled.cluster_id, addresses, enrolled.ca_pem)
    known = logins.load()
    ends = known.credentials.not_after.timestamp() if known else 0.0
    data = {
        "operator_name": operator,
        "cluster_id": enrolled.cluster_id,
        "server_addresses": list(addresses),
        "certificate_expires_unix_seconds": ends,
        "directory": str(logins.directory),
    }
    text = f"You are {operator} at cluster {enrolled.cluster_id}, until {moment(ends)}; using it renews it."
    ctl.out.show(data, [text, "Look around with: clusteractl status"])


def reachable(server: str, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Return where to reach the mTLS port: at the host that just answered first, then where the server says it is."""
    host, _ = split_address(server, ENROLLMENT_PORT)
    port = split_address(addresses[0], DEFAULT_PORT)[1] if addresses else DEFAULT_PORT
    return tuple(dict.fromkeys((join_address(host, port), *addresses)))
