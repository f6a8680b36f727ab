"""`clusteractl completion`: the script that makes a shell complete commands, options and node names."""

import click
from click.shell_completion import ShellComplete, get_completion_class

from clusteractl.command import Ctl, CtlCommand, pass_ctl

_SHELLS = ("bash", "zsh", "fish")
_EXAMPLES = """
clusteractl completion bash > ~/.local/share/bash-completion/completions/clusteractl
clusteractl completion zsh > ~/.zfunc/_clusteractl
clusteractl completion fish > ~/.config/fish/completions/clusteractl.fish
"""


@click.command(cls=CtlCommand, examples=_EXAMPLES)
@click.argument("shell", type=click.Choice(_SHELLS))
@pass_ctl
def completion(ctl: Ctl, shell: str) -> None:
    """Print the completion script for SHELL.

    The packages install it already.
    """
    root = click.get_current_context().find_root()
    kind = get_completion_class(shell) or ShellComplete
    script = kind(root.command, {}, "clusteractl", "_CLUSTERACTL_COMPLETE")
    text = script.source_template % script.source_vars()  # not source(): it runs the shell to look at its version
    ctl.out.show({"shell": shell, "script": text}, [text])
