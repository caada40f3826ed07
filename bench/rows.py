"""Compares a database of ten million calls with one of a hundred thousand: `make bench-rows`.

`python -m bench.rows --rows 1000000` is a shorter run. Both databases are in one Postgres. The same statements run on both in
turn, so that other work on the machine slows both. Compare the ratios, not the absolute numbers.
"""

import argparse
import asyncio
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import psycopg

from app.local.postgres import EmbeddedPostgres
from bench.report import describe_run, replace_part
from bench.rows_measure import MeasuredDatabase, compare_statements
from bench.rows_writes import measure_creations_while_expiring, measure_index_costs
from bench.subjects import libpq_url

SMALL_DATABASE_CALLS = 100_000
_BYTES_PER_CALL = 3_500  # includes room for sorting the indexes
_POSTGRES_SETTINGS = {
    "wal_level": "minimal",  # then rows that are loaded need no write-ahead log
    "max_wal_senders": "0",
    "shared_buffers": "5GB",  # the indexes of ten million calls fit into memory
    "max_wal_size": "8GB",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_planning": "on",
    "pg_stat_statements.track_utility": "off",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help=f"calls in the large database; the other has {SMALL_DATABASE_CALLS:,}"
    )
    parser.add_argument("--times", type=int, default=60, help="how often each question is asked")
    parser.add_argument("--write", action="store_true", help="put the results into docs/performance.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="callgate-rows-") as folder:
        needed = arguments.rows * _BYTES_PER_CALL
        if shutil.disk_usage(folder).free < needed:
            sys.exit(f"{folder} has no room for {arguments.rows:,} calls: they take {needed / 2**30:.0f} GiB. Set TMPDIR.")
        Path(folder).chmod(0o755)  # root's Postgres runs as the user nobody
        with EmbeddedPostgres(Path(folder), durable=True) as postgres:
            with psycopg.connect(libpq_url(postgres.url), autocommit=True) as connection:
                for name, value in _POSTGRES_SETTINGS.items():
                    connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            postgres.stop()
            postgres.start()
            parts = asyncio.run(_measure(postgres.url, arguments))
    parts.insert(0, f"{describe_run()}. `{shlex.join(['python', '-m', 'bench.rows', *sys.argv[1:]])}`")
    if arguments.write:
        replace_part("rows", parts)
    print("\n\n".join(parts))


async def _measure(server: str, arguments: argparse.Namespace) -> list[str]:
    small, large = [
        await MeasuredDatabase.load(server, name, size)
        for name, size in (("small", SMALL_DATABASE_CALLS), ("large", arguments.rows))
    ]
    return [
        *await compare_statements(small, large, times=arguments.times),
        *await measure_creations_while_expiring(large, seconds=10),
        *await measure_index_costs(large, rounds=arguments.times),
    ]


if __name__ == "__main__":
    main()
