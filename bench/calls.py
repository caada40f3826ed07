"""Compares what it costs to create a call: `python -m bench.calls`. Read the ratios within one run, not the milliseconds.

Callgate, two services as a team would write them by hand (bench/competitors), FastAPI alone, and no service at all take turns
for several rounds. nginx stands in for Twilio, and wrk generates the load. The processor time of nginx and wrk is not
counted, but they share the machine with the measured service, and so does Postgres. So compare the processor time of the
service's own process first.
"""

import argparse
import sys

from bench.callbacks import signed_callbacks_of, split_evenly
from bench.nginx import SLOW_MS
from bench.report import CHART_PATH, PAGE_PATH, print_table, write_page
from bench.results import ECHO, OURS, Sample, Scenario
from bench.stage import Stage, running_stage
from bench.subjects import SUBJECTS

CALL_SCENARIOS = [
    Scenario(concurrent=1, upstream_ms=0, tenants=1),
    Scenario(concurrent=32, upstream_ms=0, tenants=1),
    Scenario(concurrent=200, upstream_ms=0, tenants=1, longer=2),
    Scenario(concurrent=32, upstream_ms=0, tenants=100),
    Scenario(concurrent=1, upstream_ms=SLOW_MS, tenants=1),
    Scenario(concurrent=32, upstream_ms=SLOW_MS, tenants=1),
    # Longer, because the first seconds open connections and read every tenant for the first time.
    Scenario(concurrent=200, upstream_ms=SLOW_MS, tenants=100, longer=10),
]
ECHO_SCENARIOS = CALL_SCENARIOS[:2]
HEADLINE_SCENARIO = CALL_SCENARIOS[1]
CALLBACK_SCENARIOS = [Scenario(concurrent=concurrent, upstream_ms=0, tenants=1, what="callbacks") for concurrent in (1, 32)]


def run_call_rounds(stage: Stage, scenario: Scenario, rounds: int, seconds: int) -> list[Sample]:
    """Measures the services of the stage (subjects) in turn, for `rounds` rounds.

    FastAPI alone is measured only in ECHO_SCENARIOS, because it has neither tenants nor an upstream.
    """
    chosen = [subject for subject in stage.subjects if subject.name != ECHO or scenario in ECHO_SCENARIOS]
    return [stage.measure_calls(subject, scenario, seconds * scenario.longer) for _ in range(rounds) for subject in chosen]


def run_callback_rounds(stage: Stage, rounds: int, seconds: int) -> list[Sample]:
    """Measures what Twilio's callbacks cost Callgate, with callbacks for the calls that this run has created."""
    subject = next(subject for subject in stage.subjects if subject.name == OURS)
    runs = [scenario for scenario in CALLBACK_SCENARIOS for _ in range(rounds)]
    requests = split_evenly(signed_callbacks_of(subject), len(runs))
    return [stage.measure_callbacks(subject, scenario, share, seconds) for scenario, share in zip(runs, requests, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of one subject in one scenario of one round")
    parser.add_argument("--quick", action="store_true", help=f"only this scenario of calls: {HEADLINE_SCENARIO}")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--write", action="store_true", help=f"put the results into {PAGE_PATH.name} and {CHART_PATH.name}")
    arguments = parser.parse_args()
    scenarios = [HEADLINE_SCENARIO] if arguments.quick else list(CALL_SCENARIOS)
    samples: list[Sample] = []
    with running_stage(arguments.subjects) as stage:
        for subject in stage.subjects:
            stage.measure_calls(subject, HEADLINE_SCENARIO, 1)  # warm
        for scenario in scenarios:
            samples += run_call_rounds(stage, scenario, arguments.rounds, arguments.seconds)
            print_table(scenario, samples)
        if "gateway" in arguments.subjects:
            samples += run_callback_rounds(stage, arguments.rounds, arguments.seconds)
            scenarios += CALLBACK_SCENARIOS
            for scenario in CALLBACK_SCENARIOS:
                print_table(scenario, samples)
    if arguments.write:
        command = " ".join(["python -m bench.calls", *sys.argv[1:]])
        write_page(scenarios, samples, headline=HEADLINE_SCENARIO, command=command, postgres=stage.postgres_version)


if __name__ == "__main__":
    main()
