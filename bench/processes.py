"""Reads from Linux's /proc how much processor time and memory a process has used."""

import ctypes
import os
import subprocess
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PATIENCE_S = 60.0


def missing_requirement() -> str | None:
    """Returns a message if this machine has no Linux /proc to read from; None if it has one."""
    return None if Path("/proc/self/statm").exists() else "what a process uses is read from Linux's /proc"


def wait_until_it_answers(port: int, process: subprocess.Popen[bytes]) -> None:
    """Waits until `process` answers an HTTP request at `port`, with any status. Exits if the process ends, or after a minute.

    `callgate serve` already listens on its port while it still loads, and the loading must not be measured.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, HTTPException):
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
    raise SystemExit(f"{process.args!r} did not come up")


def cpu_seconds(pid: int, *, without: frozenset[int] = frozenset()) -> float:
    """Returns the seconds of processor time (user and system) that the process and its descendants have used.

    Descendants that have ended count too. `without` has the ids of processes that do not count.
    """
    # Reads children before their parents. The time of a child that ends meanwhile is not lost: its parent's time includes it.
    return sum(_cpu_clock_s(each) + _ended_children_s(each) for each in reversed(_process_tree(pid)) if each not in without)


def _cpu_clock_s(pid: int) -> float:
    """Returns the seconds of processor time that a process has used; 0 if it has ended.

    The process's CPU clock is more precise than /proc/PID/stat, which counts in 1/100 s.
    """
    clock = ctypes.c_int()
    if ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        return 0.0
    with suppress(OSError):
        return time.clock_gettime(clock.value)
    return 0.0


def _ended_children_s(pid: int) -> float:
    """Returns the seconds of processor time that the ended children of a process have used.

    The kernel counts a child once the process has waited for it.
    """
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / _TICKS_PER_S
    return 0.0


def resident_mib(pid: int) -> float:
    return sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in _process_tree(pid)) * _PAGE_BYTES / 2**20


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _process_tree(pid: int) -> list[int]:
    """Returns the ids of the process and its descendants. The id of a parent stands before the ids of its children."""
    family = [pid]
    with suppress(OSError):
        for tasks in Path(f"/proc/{pid}/task").iterdir():
            for child in (tasks / "children").read_text().split():
                family += _process_tree(int(child))
    return family
