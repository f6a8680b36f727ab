"""Directories that the workers' group may read."""

import os
from pathlib import Path

from clusterai.files import CannotWrite

_UMASK = 0o027


def make_shared(directory: Path) -> None:
    """Make the directory, readable by the group that its setgid parent gives it. A later chmod would drop setgid."""
    before = os.umask(_UMASK)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(directory, error) from error
    finally:
        os.umask(before)
