"""A receiver of callbacks on a real socket. Tests choose its answers."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from twilio.request_validator import RequestValidator


@dataclass(frozen=True)
class Received:
    method: str
    url: str
    headers: Message
    form: dict[str, str]
    """The fields of the body."""

    @property
    def fields(self) -> dict[str, str]:
        """Returns the fields of the body or, for a GET, of the query."""
        return self.form or dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))

    def is_signed_with(self, auth_token: str) -> bool:
        validator = RequestValidator(auth_token)
        return bool(validator.validate(self.url, self.form, self.headers.get("X-Twilio-Signature", "")))


class Receiver:
    HANG, DROP = 0, 1

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: deque[int] = deque()
        """The statuses of the next answers, or HANG or DROP. An empty deque means status 204."""
        self.release = threading.Event()
        self.url = ""

    @property
    def statuses(self) -> list[str]:
        return [request.fields["CallStatus"] for request in self.received]


class Server(ThreadingHTTPServer):
    request_queue_size = 512


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            form = dict(parse_qsl(body, keep_blank_values=True, strict_parsing=bool(body)))
            receiver.received.append(Received(self.command, receiver.url + self.path, self.headers, form))
            status = receiver.answers.popleft() if receiver.answers else 204
            self.close_connection = True
            if status == Receiver.HANG:
                receiver.release.wait()
            elif status != Receiver.DROP:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_GET = do_POST = answer  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: object) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
