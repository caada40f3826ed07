"""Ten million calls beside a hundred thousand: `make bench-rows`, or `python -m bench.rows --rows 1000000` for a shorter one.

Both databases are in one Postgres and are asked in turn, so that other work on the machine slows both. Read the ratios.
"""

import argparse
import asyncio
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from bench import rows_report
from bench.rows_data import EVERY_MS, freshen, load
from bench.rows_measure import Compared, Subject, compare
from bench.rows_questions import creations, questions
from bench.rows_writes import IndexCosts, Latencies, creation_while_expiring, index_costs
from bench.subjects import libpq

DRAWN = 60
# Includes room for sorting the indexes.
_BYTES_PER_CALL = 3_500
_LOADING = {
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
}
# The indexes of ten million calls fit into memory.
_SERVING = {"shared_buffers": "5GB", "max_wal_size": "8GB"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="calls in the large database")
    parser.add_argument("--small", type=int, default=100_000, help="calls in the other")
    parser.add_argument("--times", type=int, default=60, help="how often each question is asked")
    parser.add_argument("--seconds", type=float, default=10, help="of each of the ten turns with and without retention")
    parser.add_argument("--folder", type=Path, help="keep the databases there, and use those that are there")
    parser.add_argument("--write", action="store_true", help="put the results into docs/performance.md")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callgate-rows-")))
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # root's Postgres runs as nobody
        needed = arguments.rows * _BYTES_PER_CALL
        if shutil.disk_usage(folder).free < needed and not any(folder.iterdir()):
            sys.exit(f"{folder} has no room for {arguments.rows:,} calls: they take {needed / 2**30:.0f} GiB.")
        sizes = (arguments.small, arguments.rows)
        for rows in sizes:
            _load(folder, rows)
        with _serving(folder, _SERVING, durable=True) as server:
            urls = [_named(server, f"rows_{rows}") for rows in sizes]
            for url, rows in zip(urls, sizes, strict=True):
                migrate(url)  # what is kept in a folder may be older than the code
                freshen(libpq(url), rows)
            results = asyncio.run(_measure(urls, sizes, times=arguments.times, seconds=arguments.seconds))
    command = shlex.join(["python", "-m", "bench.rows", *sys.argv[1:]])
    parts = list(rows_report.parts(*results, sizes=sizes, command=command))
    print("\n\n".join(parts))
    if arguments.write:
        rows_report.write_page(parts)


async def _measure(
    urls: Sequence[str], sizes: Sequence[int], *, times: int, seconds: float
) -> tuple[list[Compared], IndexCosts, Latencies]:
    small, large = [await Subject.open(url, rows, draw=DRAWN) for url, rows in zip(urls, sizes, strict=True)]
    try:
        compared = []
        for question in (*questions(), *creations(1), *creations(32)):
            compared.append(await compare(question, small, large, times=times))
            print(rows_report.progress(compared[-1]), flush=True)
        costs = await index_costs(large, rounds=times)
        keep = timedelta(milliseconds=EVERY_MS * large.rows / 2)
        return compared, costs, await creation_while_expiring(large, urls[1], keep=keep, rounds=5, seconds=seconds)
    finally:
        await small.close()
        await large.close()


def _load(folder: Path, rows: int) -> None:
    """Makes the database unless it is there. It gets its name at the end, so that an unfinished one is not used."""
    with (
        _serving(folder, _LOADING, durable=False) as server,
        psycopg.connect(libpq(_named(server, "postgres")), autocommit=True) as connection,
    ):
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [f"rows_{rows}"]).fetchone():
            return
        connection.execute("DROP DATABASE IF EXISTS loading")
        connection.execute("CREATE DATABASE loading")
        print(f"Loading {rows:,} calls", flush=True)
        migrate(_named(server, "loading"))
        load(libpq(_named(server, "loading")), rows)
        connection.execute(f"ALTER DATABASE loading RENAME TO rows_{rows}")


@contextmanager
def _serving(folder: Path, options: Mapping[str, str], *, durable: bool) -> Iterator[str]:
    """Postgres, started twice, because it reads its options at the start."""
    with EmbeddedPostgres(folder, durable=durable) as postgres:
        with psycopg.connect(libpq(postgres.url), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM RESET ALL")
            for name, value in options.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        postgres.stop()
        postgres.start()
        yield postgres.url


def _named(server: str, database: str) -> str:
    return make_url(server).set(database=database).render_as_string(hide_password=False)


if __name__ == "__main__":
    main()
