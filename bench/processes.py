"""Processes that are measured: what they have used, as the kernel counts it."""

import ctypes
import os
import socket
import subprocess
import time
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PATIENCE_S = 60.0


def missing() -> str | None:
    """What cannot be had here, if anything."""
    return None if Path("/proc/self/statm").exists() else "what a process uses is read from Linux's /proc"


def until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"{process.args!r} did not come up")


def cpu_seconds(pid: int) -> float:
    """User and system time so far of the process and its children, all threads, ended ones too."""
    return sum(_cpu_clock(each) for each in _family(pid))


def _cpu_clock(pid: int) -> float:
    """What /proc/PID/stat has in hundredths of a second, in nanoseconds."""
    clock = ctypes.c_int()
    if error := ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def resident_mib(pid: int) -> float:
    return sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in _family(pid)) * _PAGE / 2**20


def _family(pid: int) -> list[int]:
    family = [pid]
    for tasks in Path(f"/proc/{pid}/task").iterdir():
        for child in (tasks / "children").read_text().split():
            family += _family(int(child))
    return family
