"""`clusteractl doctor`: what is wrong, and what to do about it."""

from dataclasses import asdict

import click

from clusteractl.command import Ctl, CtlCommand, pass_ctl
from clusteractl.diagnosis import diagnose
from clusteractl.views.cluster import check_report

_EXAMPLES = """
clusteractl doctor
clusteractl doctor --json | jq '.checks[] | select(.outcome == "failed")'
"""


@click.command(cls=CtlCommand, examples=_EXAMPLES)
@pass_ctl
def doctor(ctl: Ctl) -> int:
    """Check the way to the cluster, and the server itself.

    Exits with 1 when a check failed; a warning is no failure.
    """
    checks = ctl.run(diagnose(ctl))
    failed = sum(check.outcome == "failed" for check in checks)
    data = {"failed_count": failed, "checks": [asdict(check) for check in checks]}
    ctl.out.show(data, check_report(checks, ctl.out.width))
    return 1 if failed else 0
