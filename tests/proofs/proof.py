"""Runs a proof over a new Postgres, reports how often promises were broken, and runs the proof's short form as a test."""

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from app.database.engine import Database
from app.jobs.partitions import PartitionCreator
from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from tests.proofs.fleet import LOG

Proof = Callable[[EmbeddedPostgres, Path, argparse.Namespace], Awaitable[bool]]
TEST_LIMIT_S = 600


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the options that every proof has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options.add_argument("--rounds", type=int, default=2, help="of the disturbances, each once a round")
    options.add_argument("--limit", type=float, default=3600.0, help="seconds after which the proof has failed")
    return options


def prove(proof: Proof, options: argparse.Namespace) -> None:
    """Runs `proof`. Exits with 1 and the end of the log if it returns False, raises, or takes longer than its limit."""
    with tempfile.TemporaryDirectory(prefix="callgate-proof-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # root's Postgres runs as the user nobody
        with EmbeddedPostgres(folder) as postgres:
            migrate(postgres.url)
            try:
                asyncio.run(_create_missing_partitions(postgres.url))
                is_kept = asyncio.run(_limited(proof(postgres, folder, options), options.limit))
            except BaseException:
                _show_log(folder)
                raise
        if not is_kept:
            _show_log(folder)
            raise SystemExit(f"a promise was broken; replay with --seed {options.seed}")


def report(counts: Mapping[str, int]) -> bool:
    """Prints how often each promise was broken. Returns whether none was."""
    for name, count in counts.items():
        print(f"  {count:>6}  {name}")
    return not any(counts.values())


def assert_short_form_passes(module: str, options: Mapping[str, object], promises: tuple[str, ...]) -> None:
    """Runs `python -m module` and asserts that it kept and reported each of the promises."""
    arguments = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", module, *arguments, "--limit", str(TEST_LIMIT_S)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TEST_LIMIT_S + 60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    for promise in promises:
        assert f" 0  {promise}\n" in result.stdout


async def _create_missing_partitions(database_url: str) -> None:
    """Creates the first partitions. Otherwise the first worker creates them, and a command that runs at that moment fails."""
    database = Database(database_url, pool_size=1)
    try:
        await PartitionCreator(database).step()
    finally:
        await database.close()


async def _limited(proof: Awaitable[bool], limit_s: float) -> bool:
    async with asyncio.timeout(limit_s):
        return await proof


def _show_log(folder: Path) -> None:
    print((folder / LOG).read_text()[-4000:], file=sys.stderr)
