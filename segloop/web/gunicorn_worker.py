"""gunicorn's threaded worker, with fewer changes of thread for a small request.

Whenever a thread waits for the system it lets go of the interpreter's lock, and with eight clients another thread takes
it: a change of thread, and another to get the lock back. gunicorn's own worker does so ten times a request, this one four.
"""

from __future__ import annotations

import select
import socket
from typing import Any

from gunicorn.http.body import LengthReader
from gunicorn.workers.base import Worker as BaseWorker
from gunicorn.workers.gthread import ThreadWorker

#: How long a thread waits on a kept connection before it gives the connection back, in milliseconds.
LINGER_MS = 2
#: The longest body that is copied behind its head, in bytes: what is longer takes several packets anyway.
JOINED_BYTES = 64 * 1024


class Worker(ThreadWorker):  # type: ignore[misc]
    """Answers requests that follow one another at once on a connection in one thread, each with one packet."""

    def init_process(self) -> None:
        """Start; gunicorn looks up its settings twenty times a request, so each becomes a plain attribute."""
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        super().init_process()

    def handle_quit(self, sig: int, frame: Any) -> None:
        """End now; gunicorn's own takes a lock of the pool here, and hangs where the signal met its holder (27.0.1)."""
        BaseWorker.handle_quit(self, sig, frame)

    def run(self) -> None:
        """Serve; then free the pool's threads, also one that the pool does not know yet."""
        try:
            super().run()
        finally:
            self.tpool.shutdown(wait=False)

    def handle(self, conn: Any) -> Any:
        """Answer requests of a connection; what gunicorn's own returns for the last of them.

        gunicorn gives a kept connection back to its main thread after each answer, which watches it and hands it to a
        thread again. Here the thread waits `LINGER_MS` first, unless another connection waits for a thread.
        """
        while (kept := super().handle(conn)) is True and self._follows(conn):
            pass
        return kept

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request; whether the connection is kept."""
        plain = conn.sock
        conn.sock = joined = _JoinedSocket(plain)
        try:
            return super().handle_request(req, conn)
        finally:
            conn.sock = plain
            joined.flush()

    def _keepalive_after(self, conn: Any, keepalive: bool) -> Any:
        """Whether the connection is kept; gunicorn drains a body under a deadline, of which one that was read needs none."""
        if keepalive and _is_read(conn.parser.mesg.body):
            conn.parser.mesg = None
            return True
        return super()._keepalive_after(conn, keepalive)

    def _follows(self, conn: Any) -> bool:
        """Whether the connection's next request is there within `LINGER_MS`, and may be answered here."""
        if not self.alive or conn.is_http2 or self.tpool._work_queue.qsize():
            return False
        if conn.parser.unreader.buf.getvalue():
            return False  # read ahead of the poll: gunicorn's own way finds it
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(LINGER_MS))


class _JoinedSocket:
    """A connection's socket for one answer, whose head leaves with the beginning of its body.

    Whatever else is asked of the socket finds the head sent.
    """

    __slots__ = ("_begun", "_head", "_socket")

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain
        self._begun = False
        self._head = b""

    def sendall(self, data: bytes) -> None:
        if not self._begun:
            self._begun, self._head = True, data
            return
        if len(data) > JOINED_BYTES:
            self.flush()
        head, self._head = self._head, b""
        self._socket.sendall(head + data if head else data)

    def flush(self) -> None:
        """Send a head that no body followed."""
        head, self._head = self._head, b""
        if head:
            self._socket.sendall(head)

    def __getattr__(self, name: str) -> Any:
        self.flush()
        return getattr(self._socket, name)


def _is_read(body: Any) -> bool:
    """Whether nothing of a request's body is left, without asking the socket; False if that is not known."""
    reader = body.reader
    return isinstance(reader, LengthReader) and not (reader.length or body.failed or body.buf.tell())
