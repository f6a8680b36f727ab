"""A stand-in for systemd-journald where there is none: it speaks the protocol of its `stdout` socket, into a file.

A stream begins with seven lines (identifier, unit, priority, and four switches) and then is lines of text. Lab machines
have the real journal.
"""

import socket
import socketserver
import threading
from contextlib import suppress
from pathlib import Path

HEAD_LINES = 7
_PIECE = 65536


class Journal:
    """A journal that appends what it gets to a file. It can end and begin again, and leave unread what it is sent."""

    def __init__(self, path: Path, file: Path) -> None:
        self.path, self.file = path, file
        self.heads: list[list[str]] = []  # of the streams so far
        self.reads = threading.Event()  # cleared: it takes connections, and nothing from them
        self.reads.set()
        self._lock = threading.Lock()
        self._server: _Server | None = None

    def start(self) -> None:
        """Listen, if it does not."""
        if self._server is None:
            self.path.unlink(missing_ok=True)
            self._server = _Server(self)
            self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
            self._thread.start()

    def stop(self) -> None:
        """End, and every stream with it, read or not; nothing of it is left."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.is_ending = True
            self.reads.set()
            self._server.close_all()
            self._server = None

    def take(self, text: bytes) -> None:
        """Append whole lines."""
        with self._lock, self.file.open("ab") as file:
            file.write(text)


class _Stream(socketserver.StreamRequestHandler):
    server: "_Server"

    def handle(self) -> None:
        journal = self.server.journal
        self.server.streams.append(self.connection)
        journal.heads.append([self.rfile.readline().decode().rstrip("\n") for _ in range(HEAD_LINES)])
        rest = b""
        while journal.reads.wait() and not self.server.is_ending and (piece := self.rfile.read1(_PIECE)):
            lines, newline, rest = (rest + piece).rpartition(b"\n")
            journal.take(lines + newline)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False  # so that closing it waits for them

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.streams: list[socket.socket] = []
        self.is_ending = False
        super().__init__(str(journal.path), _Stream)

    def close_all(self) -> None:
        for stream in self.streams:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        self.server_close()
