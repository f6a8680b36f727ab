"""SIGHUP: the new configuration is used as far as that is possible while running; a bad one changes nothing."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from clusterai.config import ConfigError
from clusterai.logs import configure_logs
from clusterai.program import Notifier
from clusteraid.config import DaemonConfig, load_config
from clusteraid.status import Problems

log = logging.getLogger(__name__)
_LIVE = ("session", "drain", "log")  # sections that change while the daemon runs


class Reloader:
    """The configuration that is in use, and its listeners."""

    def __init__(self, file: Path | None, config: DaemonConfig, problems: Problems, notifier: Notifier) -> None:
        self._file, self._problems, self._notifier = file, problems, notifier
        self._listeners: list[Callable[[DaemonConfig], None]] = []
        self._started = config
        self.config = config

    def on_reloaded(self, listener: Callable[[DaemonConfig], None]) -> None:
        """Call the listener with each new configuration."""
        self._listeners.append(listener)

    async def keep_reloading(self, asked: asyncio.Event) -> None:
        """Reload whenever the event is set, for ever."""
        while True:
            await asked.wait()
            asked.clear()
            self._notifier.reloading()
            self.reload()
            self._notifier.ready()

    def reload(self) -> None:
        """Read the file again; on an error the old configuration stays and the error is shown as a problem."""
        try:
            config = load_config(self._file)
        except ConfigError as error:
            log.error("the old configuration stays in use: %s", error)
            self._problems.set("configuration", f"the configuration was rejected, the old one stays in use: {error}")
            return
        self.config = config
        configure_logs(config.log.level.value)
        for listener in self._listeners:
            listener(config)
        waiting = [f"[{name}]" for name in _sections() if getattr(config, name) != getattr(self._started, name)]
        needed = f"changes of {', '.join(waiting)} in the configuration take effect when clusteraid is restarted"
        self._problems.set("configuration", needed if waiting else "")
        log.info("the configuration was reloaded%s", f"; {needed}" if waiting else "")


def _sections() -> list[str]:
    """The sections that a running daemon cannot change."""
    return [field.name for field in dataclasses.fields(DaemonConfig) if field.name not in _LIVE]
