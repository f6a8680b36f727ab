"""Logs on stderr: with journald's priority prefixes where journald reads them, plain elsewhere."""

import logging
import os
import sys

LEVELS = ("debug", "info", "warning", "error")
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def _priority(level: int) -> int:
    """The syslog priority of a logging level (sd-daemon(3))."""
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


class JournalFormatter(logging.Formatter):
    """Puts `<N>` before every line: journald cuts a message at line ends."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines() or [""])


def configure_logs(level: str = "info") -> None:
    """Send the root logger to stderr at the level (one of LEVELS); replaces what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # in no line of ours
    logging._srcfile = None  # noqa: SLF001 - the documented way to have no stack walked for each line
