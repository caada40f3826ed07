"""Writes the results of bench/life.py as a section of docs/performance.md, with a chart."""

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from bench.chart import Panel, chart
from bench.life_run import EVENTS, PRICE_DELAY_S, RECORD_EVERY_S, TURN_S, WARM_UP_CALLS, Run
from bench.life_services import COMPETITOR, OURS, SPEED
from bench.report import PAGE_PATH, replace_part

CHART_NAME = "life.svg"
"""The name of the chart's file, which is beside the page."""
_TITLE = "CPU per call over its whole life, ms"
_NEXT_HEADING = "## Ten million calls"
_CSS_CLASSES = {"API": "ours", "worker": "second", "Postgres": "bar"}
"""The CSS class of each role in the chart."""
_MODES = {True: "with status callbacks", False: "by polling only"}
_SECTION = f"""
## The whole life of a call

A call costs more than its creation: Twilio sends status callbacks, each is delivered to the tenant, and the price has to be
learned. `python -m bench.life` measures all of it, until the call's price is stored and its deliveries have arrived.

![{_TITLE}: API, worker and Postgres]({CHART_NAME})

| subject | what it is |
|---|---|
| {OURS} | one process of `callgate serve` and one of `callgate worker`, with the default settings |
| {COMPETITOR} | `bench/competitors/life.py`: one process with FastAPI, httpx and SQLAlchemy's asynchronous sessions |

The service written by hand verifies each callback, stores it as one event and one update of the call, and delivers it from a
background task, which retries from memory. It asks Twilio for each price every two seconds. Like Callgate, it commits the
intent before and the outcome after the request to Twilio, and signs its deliveries. When it restarts, it loses the deliveries
that are not yet sent. It has no limits and no metrics, and does not resolve unknown outcomes.

Both run at the same time, each over a Postgres of its own, with `fsync` on. They get calls in turn, for {TURN_S:g} s each, so
that both see the machine at the same speed. A turn ends when its deliveries have arrived. Calls are placed by the clock,
whether or not earlier ones were answered. The first {WARM_UP_CALLS} calls warm a service up and do not count.

- **With status callbacks**, Twilio sends {len(EVENTS)} callbacks for each call, and the service delivers all of them, as JSON.
- **By polling only**, the service has no public URL. It asks Twilio for the status too, and there are no deliveries.

How to read the tables:

- *calls/s* is the rate at which calls are placed. *carried* is the rate at which they are finished: it is lower if a backlog
  grows. A service that falls behind can catch up while the other gets calls; `--services gateway` measures one alone. In a
  short run *carried* is also lower if the last prices come with a sweep half a minute later.
- *CPU ms* is user and system time per finished call, the sum of the columns before it. *× by hand* is its ratio to that of
  the service written by hand at the same rate. Postgres includes its background processes. What the processes use at rest is
  subtracted for the time in which they get no calls.
- *requests* counts the requests to Twilio per finished call, the creation included.
- *failed* counts creations that were not answered with 201, *unfinished* counts calls that were given up.
- *callback answered* and *callback to delivery* begin when Twilio sends the callback. They end with its answer, and with the
  arrival of the delivery. *price known after* begins when Twilio shows the price.
  It is up to {1 + RECORD_EVERY_S:g} seconds too long.
- Bytes on disk include indexes. *copied*: the calls of a run are copied inside Postgres, with new ids, until there are as many
  as the heading says, and each row is written once. *as the run left it*: before that, with dead rows, and with pages that
  few calls do not fill.

The CPU of the simulator, which stands in for Twilio, of the tenant's receiver and of the process that places the calls is not
counted. All three share the processor with the measured service and leave less of it to that service at high rates.

The simulator runs at {SPEED} times the speed: a call lasts at most four seconds.
Its price appears {PRICE_DELAY_S:g} s after its end.
The services poll by the clock, so real calls, which last longer, need more requests by polling only. Every delivery succeeds
the first time, so retries are not measured.
""".strip()


def life_chart(runs: Sequence[Run]) -> str:
    """Returns an SVG with a bar for each run: its CPU per call by role. There is a panel for each mode."""
    rows = list(product(dict.fromkeys(run.rate for run in runs), dict.fromkeys(run.service for run in runs)))
    cpu_ms = {(run.callbacks, run.rate, run.service): run.cpu_ms for run in runs}
    longest = max(sum(each.values()) for each in cpu_ms.values())
    panels = []
    for callbacks in dict.fromkeys(run.callbacks for run in runs):
        bars = [{_CSS_CLASSES[role]: ms for role, ms in cpu_ms[callbacks, *row].items()} for row in rows]
        panels.append(Panel(_MODES[callbacks], bars, 1, longest))
    names = [f"{service}, {rate:g} calls/s" for rate, service in rows]
    return chart(_TITLE, names, panels, legend={kind: role for role, kind in _CSS_CLASSES.items()})


def write_section(runs: Sequence[Run], results: Iterable[str], *, page: Path = PAGE_PATH) -> None:
    """Writes the section and its chart, in place of those of an earlier run.

    `results` are the paragraphs of the section: the machine with the command, and the tables.
    """
    page.with_name(CHART_NAME).write_text(life_chart(runs))
    replace_part("life", [_SECTION, *results], page=page, before=_NEXT_HEADING)
