"""gunicorn's threaded worker, whose threads wait a moment for a client's next request."""

from __future__ import annotations

import select
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

#: How long a thread waits on a kept connection before it gives the connection back, in milliseconds.
LINGER_MS = 2


class LingeringWorker(ThreadWorker):  # type: ignore[misc]
    """Answers requests that follow one another at once on a connection in one thread.

    gunicorn gives a kept connection back to its main thread after each answer, which watches it and hands it to a
    thread again: two changes of thread a request, most of a small one's time. Here the thread waits `LINGER_MS` first,
    unless another connection waits for a thread.
    """

    def handle(self, conn: Any) -> Any:
        """Answer requests of a connection; what gunicorn's own returns for the last of them."""
        while (kept := super().handle(conn)) is True and self._follows(conn):
            pass
        return kept

    def _follows(self, conn: Any) -> bool:
        """Whether the connection's next request is there within `LINGER_MS`, and may be answered here."""
        if not self.alive or conn.is_http2 or self.tpool._work_queue.qsize():
            return False
        if conn.parser.unreader.buf.getvalue():
            return False  # read ahead of the poll: gunicorn's own way finds it
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(LINGER_MS))
