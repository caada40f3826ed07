"""The program `callgate` in the shells of tests: sends the command to the fork server (fork_server.py), and waits for its end.

It imports only the standard library, so it starts much faster than `callgate` itself.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path


def main() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = {"arguments": sys.argv[1:], "environment": dict(os.environ), "cwd": str(Path.cwd())}
    server = socket.socket(fileno=int(os.environ["FORK_SERVER"]))
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2, theirs.fileno()])
    theirs.close()
    forwarded = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)
    command = int(ours.recv(16))
    for number in forwarded:
        signal.signal(number, lambda received, _: send_signal(command, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)
    code = int(ours.recv(16))
    if code < 0:  # the command was ended by a signal
        if -code in forwarded:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def send_signal(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(process, number)


if __name__ == "__main__":
    main()
