"""The server's worker saves changes of thread, at nobody's cost: on real gunicorn."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo.programs import free_port
from segloop.web.gunicorn_worker import JOINED_BYTES, Worker, _JoinedSocket
from tests.waiting import until

APP = """
def app(environ, start_response):
    path, given = environ["PATH_INFO"], environ["wsgi.input"]
    if path == "/unread":
        given.read(1)
        start_response("200 OK", [("Content-Length", "6")])
        return [b"unread"]
    if path == "/nothing":
        start_response("204 No Content", [])
        return []
    if path == "/file":
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))
    if path == "/pieces":
        start_response("200 OK", [])
        return iter([b"one\\r\\n\\r\\n", b"two", b"", b"three"])
    if path == "/broken":
        start_response("200 OK", [("Content-Length", "9")])
        return (1 // 0 for _ in "x")
    body = given.read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
WAIT_S = 30
#: Makes an app's process take its time to start a thread, under the pool's lock, and leave a file before.
SLOW_TO_START_A_THREAD = """
import time
from concurrent.futures import thread
from pathlib import Path

class Slow(thread.threading.Thread):
    def start(self):
        super().start()
        Path(__file__).with_name("starting").touch()
        time.sleep(600)

class Threading:
    Thread = Slow

    def __getattr__(self, name):
        return getattr(original, name)

original, thread.threading = thread.threading, Threading()
"""


@contextmanager
def server(folder: Path, threads: int, before: str = "", *more: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    (folder / "echo.py").write_text(before + APP)
    port = free_port()
    options = ["-k", "segloop.web.gunicorn_worker.Worker", "--threads", str(threads), "--keep-alive", "30", *more]
    bound = ["--bind", f"127.0.0.1:{port}", "--no-control-socket", "--pythonpath", str(folder)]
    with subprocess.Popen([sys.executable, "-m", "gunicorn", *options, *bound, "echo:app"]) as process:
        try:
            await_listening(port)
            yield port, process
        finally:
            process.terminate()
            process.wait(WAIT_S)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server of two threads, for tests that leave it as it was."""
    with server(tmp_path_factory.mktemp("app"), threads=2) as (port, _):
        yield port


def await_listening(port: int) -> None:
    for _ in range(int(WAIT_S / 0.1)):
        with closing(socket.socket()) as one:
            one.settimeout(0.1)
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        threading.Event().wait(0.1)
    pytest.fail("gunicorn did not start")


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)


def echo(connection: http.client.HTTPConnection, body: bytes) -> bytes:
    connection.request("POST", "/", body)
    return connection.getresponse().read()


def test_requests_that_follow_at_once_and_ones_that_take_their_time_are_answered(port):
    with closing(connect(port)) as client:
        for number in range(60):
            assert echo(client, b"%d" % number) == b"%d" % number
            if number % 20 == 0:
                threading.Event().wait(0.05)


def test_requests_sent_before_an_answer_was_read_are_all_answered(port):
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n%03d"
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        client.sendall(b"".join(request % number for number in range(20)))
        received = b""
        while b"\r\n\r\n019" not in received:
            received += client.recv(65536)
    assert received.count(b"HTTP/1.1 200") == 20


@pytest.mark.slow
def test_a_client_that_never_pauses_keeps_the_only_thread_from_nobody(tmp_path):
    ended = threading.Event()

    def hammer(port: int) -> None:
        with closing(connect(port)) as client:
            while not ended.is_set():
                echo(client, b"again")

    with server(tmp_path, threads=1) as (port, _):
        busy = threading.Thread(target=hammer, args=(port,))
        busy.start()
        try:
            with closing(connect(port)) as other:
                assert [echo(other, b"%d" % number) for number in range(10)] == [b"%d" % number for number in range(10)]
        finally:
            ended.set()
            busy.join()


@pytest.mark.slow
def test_a_client_that_never_pauses_does_not_keep_the_server_from_stopping(tmp_path):
    asked = threading.Event()

    def hammer(port: int) -> None:
        with closing(connect(port)) as client:
            try:
                while True:
                    echo(client, b"again")
                    asked.set()
            except (OSError, http.client.HTTPException):
                pass

    with server(tmp_path, threads=2) as (port, process):
        busy = threading.Thread(target=hammer, args=(port,))
        busy.start()
        assert asked.wait(WAIT_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
        busy.join(WAIT_S)
        assert not busy.is_alive()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT])
def test_ctrl_c_while_a_thread_is_started_stops_the_server(tmp_path, signum):
    with server(tmp_path, 2, SLOW_TO_START_A_THREAD, "--graceful-timeout", "600") as (_, process):
        until((tmp_path / "starting").exists)  # for the connection by which `server` knew that it listens
        process.send_signal(signum)
        assert process.wait(WAIT_S) == 0


def test_every_kind_of_answer_arrives_whole_on_one_connection(port):
    with closing(connect(port)) as client:

        def ask(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
            client.request(method, path, body, headers)
            answer = client.getresponse()
            return answer.status, answer.read()

        for _ in range(3):
            assert ask("POST", "/", b"x" * 300_000) == (200, b"x" * 300_000)
            assert ask("POST", "/unread", b"y" * 20_000) == (200, b"unread")
            assert ask("POST", "/", iter([b"chunk", b"ed"])) == (200, b"chunked")
            assert ask("POST", "/unread", iter([b"chunk" * 1000, b"ed"])) == (200, b"unread")
            assert ask("GET", "/nothing") == (204, b"")
            assert ask("GET", "/file") == (200, APP.encode())
            assert ask("GET", "/pieces") == (200, b"one\r\n\r\ntwothree")
            assert ask("HEAD", "/file") == (200, b"")
        here = client.sock.getsockname()
        assert ask("GET", "/") == (200, b"")
        assert client.sock.getsockname() == here
        assert ask("GET", "/broken")[0] == 500
        assert ask("POST", "/", b"after") == (200, b"after")


def test_a_client_that_waits_to_be_told_to_go_on_is_told(port):
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert client.recv(65536).endswith(b"\r\n\r\nbody")


def test_head_and_body_leave_in_one_packet():
    with packets() as (joined, received):
        joined.sendall(b"head")
        joined.sendall(b"body")
        joined.sendall(b"more")
        joined.flush()
    assert received == [b"headbody", b"more"]


def test_a_long_body_is_not_copied_behind_its_head():
    with packets() as (joined, received):
        joined.sendall(b"head")
        joined.sendall(b"x" * (JOINED_BYTES + 1))
    assert [len(packet) for packet in received] == [4, JOINED_BYTES + 1]


def test_a_head_that_could_not_be_sent_is_not_sent_again():
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there.close()
    with here:
        joined = _JoinedSocket(here)
        joined.sendall(b"head")
        with pytest.raises(BrokenPipeError):
            joined.sendall(b"body")
        joined.flush()


def test_a_head_without_a_body_leaves_before_whatever_else_is_done_with_the_socket():
    with packets() as (joined, received):
        joined.sendall(b"head")
        joined.send(b"past it")
        joined.flush()
    assert received == [b"head", b"past it"]


@contextmanager
def packets() -> Iterator[tuple[_JoinedSocket, list[bytes]]]:
    """A socket of a kind that keeps packets apart, and what the other end received, once this ends."""
    received: list[bytes] = []
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        with here:
            yield _JoinedSocket(here), received
        while packet := there.recv(2 * JOINED_BYTES):
            received.append(packet)


@pytest.mark.parametrize(
    ("changes", "sent", "follows"),
    [
        ({}, b"GET", True),
        ({}, b"", False),
        ({"alive": False}, b"GET", False),
        ({"waiting": 1}, b"GET", False),
        ({"is_http2": True}, b"GET", False),
        ({"read_ahead": b"GET"}, b"GET", False),
    ],
)
def test_when_a_thread_stays_with_its_connection(changes, sent, follows):
    given = {"alive": True, "waiting": 0, "is_http2": False, "read_ahead": b"", **changes}
    queue = SimpleNamespace(qsize=lambda: given["waiting"])
    worker = SimpleNamespace(alive=given["alive"], tpool=SimpleNamespace(_work_queue=queue))
    unreader = SimpleNamespace(buf=SimpleNamespace(getvalue=lambda: given["read_ahead"]))
    client, sock = socket.socketpair()
    with closing(client), closing(sock):
        client.sendall(sent)
        conn = SimpleNamespace(sock=sock, is_http2=given["is_http2"], parser=SimpleNamespace(unreader=unreader))
        assert Worker._follows(worker, conn) is follows
