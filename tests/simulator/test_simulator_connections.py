"""Tests the HTTP connections on which the simulator sends callbacks, with answers in every format that HTTP permits."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.simulator.running import Running

EVENTS = ["initiated", "ringing", "answered", "completed"]
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass
class RawReceiver:
    """Answers each request with the next bytes of `answers` (None closes the connection), and then with NO_CONTENT."""

    listener: socket.socket
    answers: list[bytes | None] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    """For each request, the number of the connection on which it arrived."""
    heads: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def accept(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()
            number += 1

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as lines:
            while head := list(iter(lines.readline, b"\r\n")):
                if not head[0]:
                    return
                text = b"".join(head).decode()
                lines.read(int(text.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0))
                self.requests.append(number)
                self.heads.append(text)
                answer = self.answers.pop(0) if self.answers else NO_CONTENT
                if answer is None:
                    return
                connection.sendall(answer)
                if b"close" in answer or b"HTTP/1.0" in answer:
                    return


@contextmanager
def listening() -> Iterator[RawReceiver]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiver = RawReceiver(listener)
        accepting = threading.Thread(target=receiver.accept)
        accepting.start()
        yield receiver
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


@pytest.fixture
def receiver() -> Iterator[RawReceiver]:
    with listening() as receiver:
        yield receiver


def deliveries_of_a_call(
    simulator: Running, control: httpx.Client, calls: httpx.Client, receiver: RawReceiver, prefix: str = "http://"
) -> list[dict[str, Any]]:
    """Places a call, lets it end, and returns the callbacks that the simulator has sent or tried to send."""
    form: dict[str, Any] = {"To": "sip:kate@example.com", "From": "Jack", "Twiml": "<Response/>"}
    form |= {"StatusCallback": f"{prefix}127.0.0.1:{receiver.port}/status", "StatusCallbackEvent": EVENTS}
    calls.post("/Calls.json", data=form).raise_for_status()
    simulator.clock.advance(120)
    control.post("/callbacks/run").raise_for_status()
    deliveries: list[dict[str, Any]] = control.get("/callbacks").json()["deliveries"]
    return deliveries


def answers(deliveries: list[dict[str, Any]]) -> list[list[int | None]]:
    return [[attempt["answer_status"] for attempt in delivery["attempts"]] for delivery in deliveries]


def test_a_connection_is_kept(simulator: Running, control: httpx.Client, calls: httpx.Client, receiver: RawReceiver) -> None:
    deliveries = deliveries_of_a_call(simulator, control, calls, receiver)
    assert answers(deliveries) == [[204]] * 4
    assert receiver.requests == [0, 0, 0, 0]


def test_a_request_on_a_kept_connection_that_was_closed_is_sent_again(
    simulator: Running, control: httpx.Client, calls: httpx.Client, receiver: RawReceiver
) -> None:
    receiver.answers = [NO_CONTENT, None, NO_CONTENT]
    deliveries = deliveries_of_a_call(simulator, control, calls, receiver)
    assert answers(deliveries) == [[204]] * 4
    assert receiver.requests == [0, 0, 1, 1, 1]


def test_a_request_on_a_new_connection_is_not_sent_again(
    simulator: Running, control: httpx.Client, calls: httpx.Client, receiver: RawReceiver
) -> None:
    receiver.answers = [None]
    deliveries = deliveries_of_a_call(simulator, control, calls, receiver)
    assert answers(deliveries) == [[None], [204], [204], [204]]
    assert deliveries[0]["attempts"][0]["error"] == "RemoteProtocolError"
    assert receiver.requests == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("answer", "status", "is_kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 503, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 200, False),
        (b"HTTP/1.0 200 OK\r\n\r\nok until the end", 200, False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhalf", 200, False),
        (b"no HTTP\r\n\r\n", None, False),
    ],
)
def test_an_answer_of_any_form(
    simulator: Running,
    control: httpx.Client,
    calls: httpx.Client,
    receiver: RawReceiver,
    answer: bytes,
    status: int | None,
    is_kept: bool,
) -> None:
    receiver.answers = [answer]
    deliveries = deliveries_of_a_call(simulator, control, calls, receiver)
    assert answers(deliveries) == [[status], [204], [204], [204]]
    assert receiver.requests == ([0, 0, 0, 0] if is_kept else [0, 1, 1, 1])


def test_an_answer_that_nobody_asked_for_ends_the_connection(
    simulator: Running, control: httpx.Client, calls: httpx.Client, receiver: RawReceiver
) -> None:
    receiver.answers = [NO_CONTENT * 2]
    deliveries = deliveries_of_a_call(simulator, control, calls, receiver)
    assert answers(deliveries) == [[204]] * 4
    assert receiver.requests[-3:] == [1, 1, 1]


def test_the_user_of_the_url_is_sent_as_basic_credentials(
    simulator: Running, control: httpx.Client, calls: httpx.Client, receiver: RawReceiver
) -> None:
    deliveries = deliveries_of_a_call(simulator, control, calls, receiver, prefix="http://jack:p%40ss@")
    assert answers(deliveries) == [[204]] * 4
    assert "Authorization: Basic amFjazpwQHNz\r\n" in receiver.heads[0]
    assert f"Host: 127.0.0.1:{receiver.port}\r\n" in receiver.heads[0]
