"""What the launcher runs: first a look whether Termux has the compiled modules for the Python of today."""

import sys
from importlib.util import find_spec

_OF_TERMUX = {"psutil": "python-psutil"}

# What is left of a module when its files went with the last Python is a directory, which has no origin.
missing = [package for module, package in _OF_TERMUX.items() if getattr(find_spec(module), "origin", None) is None]
if missing:
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    sys.exit(
        f"clusterai-agent: Python here is {minor}, and Termux's {', '.join(missing)} is not installed for it\n"
        f"  run `pkg upgrade`, then `pkg reinstall {' '.join(missing)}`; right after a new Python, Termux needs some "
        "days to build them: the service goes on by itself when they are there"
    )

from clusterai_agent.__main__ import main  # noqa: E402  it needs them

sys.exit(main())
