"""Measures what a call costs over its whole life: `python -m bench.life`. Read the ratios within one run, not the milliseconds.

Callgate (an API process and a worker) and a service written by hand (bench/competitors/life.py) run side by side, each over its
own Postgres, and get calls in turn. A life is the creation, Twilio's callbacks, deliveries to the tenant, and the price. It is
measured with callbacks, and with polling only. Twilio is the simulator at ten times the speed. The processor time of the
simulator, of the receiver and of this process, which places the calls, is not counted, but they share the machine with what is
measured.
"""

import argparse
import asyncio
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from statistics import quantiles

from app.local.postgres import EmbeddedPostgres
from bench import disk, life_report, processes
from bench.disk import DiskUsage
from bench.life_run import Run, accounts_for, measure
from bench.life_services import COMPETITOR, SERVICES, ServiceConfig, running_simulator
from bench.report import PAGE_PATH, describe_run, markdown_table

MODES = {"callbacks": True, "polling": False}
ROLES = ("API", "worker", "Postgres")
COST_COLUMNS = (
    "",
    "calls/s",
    "carried",
    *(f"{role} ms" for role in ROLES),
    "CPU ms",
    "× by hand",
    "requests",
    "failed",
    "unfinished",
)
TIME_COLUMNS = (
    "",
    "calls/s",
    "callback answered p50",
    "p99",
    "callback to delivery p50",
    "p99",
    "price known after p50",
    "p95",
)


def cost_cells(run: Run, beside: Run | None) -> list[str]:
    cpu = run.cpu_ms
    whole = sum(cpu.values())
    requests = run.requests.total() / max(run.finished, 1)
    return [
        run.service,
        f"{run.rate:g}",
        f"{run.carried:.0f}",
        *(f"{cpu[role]:.1f}" if role in cpu else "–" for role in ROLES),
        f"{whole:.1f}",
        f"{whole / sum(beside.cpu_ms.values()):.2f}" if beside else "–",
        f"{requests:.2f}",
        str(run.failed),
        str(run.unfinished),
    ]


def time_cells(run: Run) -> list[str]:
    def percentile(values: Sequence[float], percent: int) -> str:
        return f"{quantiles(values, n=100)[percent - 1] * 1000:.0f} ms" if len(values) > 1 else "–"

    return [
        run.service,
        f"{run.rate:g}",
        *(percentile(run.callback_s, percent) for percent in (50, 99)),
        *(percentile(run.delivery_s, percent) for percent in (50, 99)),
        *(percentile(run.price_s, percent) for percent in (50, 95)),
    ]


def result_tables(runs: Sequence[Run], sizes: dict[str, DiskUsage]) -> list[str]:
    """Returns the tables as Markdown."""
    parts = []
    for callbacks in (True, False):
        chosen = sorted((run for run in runs if run.callbacks == callbacks), key=lambda run: run.rate)
        if not chosen:
            continue
        parts.append(f"### {'With status callbacks' if callbacks else 'By polling only'}")
        beside = {run.rate: run for run in chosen if run.service == COMPETITOR}
        parts.append(markdown_table(COST_COLUMNS, [cost_cells(run, beside.get(run.rate)) for run in chosen]))
        parts.append(markdown_table(TIME_COLUMNS, [time_cells(run) for run in chosen]))
    for service, size in sizes.items():
        parts.append(f"### Bytes per call on disk: {service}, at {size.calls:,} calls")
        parts.append(markdown_table(("table, with its indexes", "copied", "as the run left it"), size.rows()))
        parts.append(markdown_table(("column", "bytes per call"), size.column_rows()))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[10, 50], help="calls a second, one run each, the lowest first"
    )
    parser.add_argument("--seconds", type=float, default=60, help="during which calls are placed")
    parser.add_argument("--services", nargs="+", choices=SERVICES, default=list(SERVICES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--calls", type=int, default=100_000, help="on disk, for the bytes of one; 0: not measured")
    parser.add_argument("--patience", type=float, default=120, help="seconds after the last call until the rest is given up")
    parser.add_argument(
        "--write", action="store_true", help=f"put the results into {PAGE_PATH.name} and {life_report.CHART_NAME}"
    )
    arguments = parser.parse_args()
    if lack := processes.missing_requirement():
        raise SystemExit(f"Skipped: {lack}")
    runs: list[Run] = []
    sizes: dict[str, DiskUsage] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callgate-life-")))
        folder.chmod(0o755)  # root's Postgres runs as the user nobody
        servers = {name: stack.enter_context(EmbeddedPostgres(folder / name, durable=True)).url for name in arguments.services}
        twilio = stack.enter_context(running_simulator(folder))
        rates = sorted(arguments.rates)
        for mode in arguments.modes:
            with ExitStack() as running:
                services = []
                for name, server in servers.items():
                    config = ServiceConfig(server, twilio, folder, accounts_for(rates[-1]), MODES[mode])
                    services.append(running.enter_context(SERVICES[name](config)))
                measured = [[Run(service.name, rate, MODES[mode], arguments.seconds) for rate in rates] for service in services]
                asyncio.run(measure(services, measured, twilio, patience_s=arguments.patience))
                if arguments.calls and MODES[mode]:
                    sizes |= {service.name: disk.measure(service.database, arguments.calls) for service in services}
            for run in chain.from_iterable(measured):
                at_rest = ", ".join(f"{role} {share:.1%}" for role, share in run.idle_shares.items())
                print(f"{mode}: {' '.join(cost_cells(run, None))}; at rest {at_rest}", flush=True)
                runs.append(run)
    results = [f"{describe_run()}. `{shlex.join(['python', '-m', 'bench.life', *sys.argv[1:]])}`", *result_tables(runs, sizes)]
    print("", *results, sep="\n\n")
    if arguments.write:
        life_report.write_section(runs, results)


if __name__ == "__main__":
    main()
