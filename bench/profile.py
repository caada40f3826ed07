"""Shows in which code a process spends its time under load: `python -m bench.profile`.

py-spy samples the process's stacks while wrk sends requests to create calls. The bench prints three tables: by package, by
function, and by the innermost function of this repository in the stack. SQLAlchemy's asynchronous sessions run in greenlets,
whose stacks do not show their callers, so their samples count as "none of ours". In a service with many threads, threads that
wait in C code count too.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.calls import HEADLINE_SCENARIO
from bench.stage import Stage, running_stage
from bench.subjects import SUBJECTS

PY_SPY = Path(sys.executable).with_name("py-spy")
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>.+):\d+\)")
_STANDARD_LIBRARY = re.compile(r".*/lib/python3[^/]*/|<frozen ")
_OURS = ("app/", "bench/competitors/")


def sample_stacks(stage: Stage, seconds: int, rate: int) -> Iterator[tuple[list[str], int]]:
    """Puts the stage's first service under load, and samples its running threads with py-spy `rate` times a second.

    Yields each stack, with the outermost frame first, and the number of samples in which it was seen.
    """
    subject = stage.subjects[0]
    raw = stage.folder / "stacks"
    command = [str(PY_SPY), "record", "--pid", str(subject.pid), "--duration", str(seconds), "--rate", str(rate)]
    command += ["--function", "--full-filenames", "--format", "raw", "--output", str(raw)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spying:
        stage.measure_calls(subject, HEADLINE_SCENARIO, seconds + 1)
    if spying.returncode:
        sys.exit("py-spy failed: it needs the right to look into other processes")
    for line in raw.read_text().splitlines():
        stack, _, times = line.rpartition(" ")
        yield [_short_frame(frame) for frame in stack.split(";")], int(times)


def _short_frame(frame: str) -> str:
    """Returns a frame of py-spy as `function (package/module.py)`, without the line number and the leading folders."""
    found = _FRAME.fullmatch(frame)
    if not found:
        return frame or "(no Python frame)"
    file = found["file"].rpartition("site-packages/")[2].removeprefix(f"{Path.cwd()}/")
    return f"{found['function']} ({_STANDARD_LIBRARY.sub('python/', file)})"


def _package_of(frame: str) -> str:
    return frame.rpartition("(")[2].partition("/")[0].rstrip(")")


def _innermost_own_frame(stack: list[str]) -> str:
    return next((frame for frame in reversed(stack) if frame.rpartition("(")[2].startswith(_OURS)), "none of ours")


def print_shares(title: str, counted: Counter[str], most: int) -> None:
    total = counted.total()
    print(f"\n| {title} | share |\n|---|---:|")
    for name, times in counted.most_common(most):
        print(f"| {name} | {times / total:.1%} |")


def print_tables(stacks: Iterable[tuple[list[str], int]], most: int) -> None:
    packages, functions, behalf = Counter[str](), Counter[str](), Counter[str]()
    for stack, times in stacks:
        packages[_package_of(stack[-1])] += times
        functions[stack[-1]] += times
        behalf[_innermost_own_frame(stack)] += times
    print_shares("package, self time", packages, most)
    print_shares("function, self time", functions, most)
    print_shares("function of ours, and what it calls outside", behalf, most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SUBJECTS, default="gateway")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=int, default=200, help="samples a second")
    parser.add_argument("--most", type=int, default=25, help="rows of a table")
    arguments = parser.parse_args()
    with running_stage([arguments.subject]) as stage:
        stage.measure_calls(stage.subjects[0], HEADLINE_SCENARIO, 1)  # warm
        print_tables(sample_stacks(stage, arguments.seconds, arguments.rate), arguments.most)


if __name__ == "__main__":
    main()
