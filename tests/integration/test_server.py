"""The web server as real processes: clients that hold connections, deaths, and every kind of answer."""

from __future__ import annotations

import base64
import http.client
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from segloop.errors import SettingsError
from segloop.server import listening_address
from segloop.settings import Settings
from tests.servers import APP, SERVER, Server, running, serving, started
from tests.waiting import PATIENCE_S, until

PASSWORD = "hunter2hunter2"
AUTHORIZED = f"Authorization: Basic {base64.b64encode(f'segloop:{PASSWORD}'.encode()).decode()}\r\n"
HELD = 100


# -- held connections


@pytest.fixture(scope="module")
def segloop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """segloop itself, with a password."""
    with running(tmp_path_factory.mktemp("segloop"), basic_auth_pass=PASSWORD, log_level="WARNING") as server:
        yield server


def head(*lines: str) -> bytes:
    return "\r\n".join(("POST /predict HTTP/1.1", "Host: a", "Content-Type: application/json", *lines, "", "")).encode()


@pytest.mark.parametrize(
    ("sent", "more"),
    [
        (b"", b""),
        (b"POST /predict HT", b""),
        (head()[:-2] + b"X-Slow: ", b"a"),
        (head(f"{AUTHORIZED}Content-Length: 1000") + b"[1,", b""),
        (head(f"{AUTHORIZED}Content-Length: 100000") + b"[1,", b"1,"),
        (head(f"{AUTHORIZED}Transfer-Encoding: chunked"), b"2\r\n1,\r\n"),
    ],
    ids=["silent", "half a head", "a trickled head", "half a body", "a trickled body", "trickled chunks"],
)
def test_held_connections_keep_health_from_nobody(segloop: Server, sent: bytes, more: bytes) -> None:
    clients = [segloop.connect(sent) for _ in range(HELD)]
    ended = threading.Event()

    def trickle() -> None:
        while not ended.wait(0.1):
            for client in clients:
                client.sendall(more)

    trickling = threading.Thread(target=trickle)
    trickling.start()
    try:
        until(lambda: segloop.answers(timeout_s=1), "an answer within a second")
        for client in clients:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is held: neither answered nor closed
                client.recv(1)
            client.setblocking(True)
    finally:
        ended.set()
        trickling.join()
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    "chunk",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-1\r\n{}\r\n0\r\n\r\n",
        b"f" * 40 + b"\r\n{}\r\n",
        b"2;\x00\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}zz0\r\n\r\n",
    ],
    ids=["no number", "negative", "endless", "a bad extension", "no end"],
)
def test_a_chunk_that_is_none_is_a_400(segloop: Server, chunk: bytes) -> None:
    head_of_post = head(f"{AUTHORIZED}Transfer-Encoding: chunked").replace(b"/predict", b"/validate")
    with closing(segloop.connect(head_of_post + chunk)) as client:
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 400"), answer
    assert segloop.answers()
    assert "Traceback" not in segloop.log


def test_who_has_no_password_holds_no_thread_with_half_a_body(segloop: Server) -> None:
    clients = [segloop.connect(head("Content-Length: 1000") + b"[1,") for _ in range(3 * HELD)]
    try:
        for client in clients:
            assert client.recv(20).startswith(b"HTTP/1.1 401")
        assert segloop.answers()
    finally:
        for client in clients:
            client.close()


@pytest.mark.slow
def test_clients_that_never_read_keep_nobody_waiting(tmp_path: Path) -> None:
    with serving(tmp_path, APP, threads=8) as server:
        clients = [server.connect(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n" * 3) for _ in range(20)]
        until(lambda: server.answers(timeout_s=1), "an answer within a second")
        for client in clients:
            client.close()


# -- processes


def test_the_servers_processes_leave_ctrl_c_to_the_first(segloop: Server) -> None:
    [worker] = segloop.children()
    os.kill(worker, signal.SIGINT)
    assert segloop.answers()
    assert segloop.children() == [worker]


@pytest.mark.slow
def test_a_killed_process_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, APP) as server:
        [first] = server.children()
        os.kill(first, signal.SIGKILL)
        until(lambda: server.children() not in ([], [first]) and server.answers(), "another process")


@pytest.mark.slow
def test_processes_end_with_the_first(tmp_path: Path) -> None:
    with serving(tmp_path, APP, workers=2) as server:
        children = server.children()
        assert len(children) == 2
        server.process.kill()
        server.process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "their end")
        assert (tmp_path / "ended").exists()


@pytest.mark.slow
def test_an_application_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "own_application.py").write_text("raise RuntimeError('no such disk')")
    with started(tmp_path, (*SERVER, "own_application:app")) as server:
        assert server.process.wait(PATIENCE_S) == 1
        assert "no such disk" in server.log


@pytest.mark.slow
def test_a_taken_port_is_named(segloop: Server, tmp_path: Path) -> None:
    with started(tmp_path, port=segloop.port) as server:
        assert server.process.wait(PATIENCE_S) == 1
        assert f"cannot listen on 127.0.0.1:{segloop.port} (Address already in use)" in server.log
        assert "Traceback" not in server.log


def test_where_the_server_listens(tmp_path: Path) -> None:
    own = {"data_dir": tmp_path, "port": 0}
    address, port = listening_address(Settings(host="localhost", basic_auth_pass=PASSWORD, **own))
    assert address in ("127.0.0.1", "::1")
    assert port > 0
    assert listening_address(Settings(host="0.0.0.0", **own))[0] == "127.0.0.1", "there is no password"
    with pytest.raises(SettingsError, match=r"cannot listen on no-such-host\.invalid:0"):
        listening_address(Settings(host="no-such-host.invalid", basic_auth_pass=PASSWORD, **own))


# -- answers


@pytest.mark.slow
def test_every_kind_of_answer_arrives_whole_on_one_connection(tmp_path: Path) -> None:
    with serving(tmp_path, APP) as server, closing(http.client.HTTPConnection("127.0.0.1", server.port)) as client:

        def ask(method: str, path: str, body: Any = None) -> tuple[int, bytes]:
            client.request(method, path, body)
            answer = client.getresponse()
            return answer.status, answer.read()

        for _ in range(3):
            assert ask("POST", "/", b"x" * 300_000) == (200, b"x" * 300_000)
            assert ask("POST", "/", iter([b"chunk", b"ed"])) == (200, b"chunked")
            assert ask("GET", "/nothing") == (204, b"")
            assert ask("GET", "/pieces") == (200, b"one\r\n\r\ntwothree")
            assert ask("HEAD", "/long") == (200, b"")
        assert client.sock is not None
        here = client.sock.getsockname()
        assert ask("GET", "/") == (200, b"")
        assert client.sock.getsockname() == here


def test_a_client_is_told_that_a_refusal_ends_its_connection(segloop: Server) -> None:
    with segloop.connect(head("Content-Length: 20000") + b" " * 20_000) as client:
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer.lower().split(b"\r\n")


@pytest.mark.slow
def test_requests_sent_before_an_answer_was_read_are_all_answered(tmp_path: Path) -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n%03d"
    with serving(tmp_path, APP) as server, server.connect(*(request % number for number in range(20))) as client:
        answers = b""
        while b"\r\n\r\n019" not in answers:
            answers += client.recv(65536)
    assert answers.count(b"HTTP/1.1 200") == 20


def test_a_client_that_waits_to_be_told_to_go_on_is_told(segloop: Server) -> None:
    body = b'{"project": 1}'
    with segloop.connect(
        head(f"{AUTHORIZED}Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close")
    ) as client:
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(65536).startswith(b"HTTP/1.1 4")
    with segloop.connect(head("Content-Length: 9", "Expect: 100-continue")) as client:
        assert client.recv(65536).startswith(b"HTTP/1.1 401"), "who may not send is not told to"


def test_a_proxy_on_this_machine_says_who_calls_and_how(tmp_path: Path) -> None:
    with serving(tmp_path, APP) as server:

        def caller(**headers: str) -> str:
            return httpx.get(f"{server.url}/caller", headers=headers, trust_env=False).text

        assert caller() == "http 127.0.0.1"
        assert (
            caller(**{"X-Forwarded-For": "127.0.0.1, 203.0.113.7", "X-Forwarded-Proto": "https"}) == "https 203.0.113.7"
        )


NO_IMAGE = {"project": "7.1", "schema": '<View><Text name="text" value="$text"/></View>'}


def refused_without_password(client: httpx.Client) -> httpx.Response:
    """The answer to a wrong password. The server closes such a connection without reading the body: where the machine stalls
    between a client's head and its body, the system may throw the answer away, and clients ask again."""
    for _ in range(10):
        with suppress(httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            return client.post("/setup", json=NO_IMAGE, auth=("segloop", "wrong"))
    raise AssertionError("no answer in ten tries")


def test_a_refused_setup_says_why_in_the_address_that_label_studio_shows(segloop: Server) -> None:
    auth, headers = ("segloop", PASSWORD), {"User-Agent": "heartex/1.23.2"}
    with httpx.Client(base_url=segloop.url, headers=headers, follow_redirects=True, trust_env=False) as client:
        answer = client.post("/setup", json=NO_IMAGE, auth=auth)
        assert answer.status_code == 400
        assert "/setup/The-label-config-has-no-Image-tag;-add-one" in str(answer.url)
        assert answer.json()["error"].startswith("The label config has no Image tag")
        answer = refused_without_password(client)
        assert (answer.status_code, answer.url.path) == (401, "/setup/Wrong-user-or-password")


# -- gunicorn, for who starts segloop by it


@pytest.mark.slow
def test_gunicorn_serves_segloop_too(tmp_path: Path) -> None:
    command = ("-m", "gunicorn", "-c", "python:segloop.web.gunicorn_conf", "_wsgi:app")
    with running(tmp_path, command, log_format="json", retrain_treshold=5) as server:
        assert server.log.count("SEGLOOP_RETRAIN_TRESHOLD") == 1
        assert '"level": "WARNING"' in next(line for line in server.log.splitlines() if "TRESHOLD" in line)
        assert httpx.get(f"{server.url}/metrics", trust_env=False).is_success
        refused = httpx.post(
            f"{server.url}/setup", json=NO_IMAGE, headers={"User-Agent": "heartex/1.23.2"}, trust_env=False
        )
        assert refused.status_code == 400
        assert refused.reason_phrase.startswith("The label config has no Image tag")
        assert list(Path("/dev/shm").glob(f"segloop-{os.getuid()}/metrics-*-{server.port}/*.db"))
        server.send(signal.SIGINT, to_all=True)
        assert server.process.wait(PATIENCE_S) == 0
        assert '"logger": "gunicorn.error", "message": "Listening at' in server.log
        assert all(line.startswith("{") for line in server.log.splitlines())


@pytest.mark.slow
def test_gunicorn_listens_on_loopback_alone_without_a_password(tmp_path: Path) -> None:
    command = ("-m", "gunicorn", "-c", "python:segloop.web.gunicorn_conf", "-b", "0.0.0.0:0", "_wsgi:app")
    with started(tmp_path, command) as server:
        assert server.process.wait(PATIENCE_S) == 1
        assert "Refusing to listen on 0.0.0.0 without a password" in server.log
