"""Generates Vectorworks-style command logs with known truth, as batch tables or the live JSON-lines log.

    python -m data_processing.simulate --out DIR --users 200 --seed 0 --format batch

Writes ``DIR/logs`` (what cleaning reads), ``DIR/truth`` (the clean sequence after noise removal, undo/redo
and repeat collapsing, before rare-command, length, language and redundancy rules; planted pairs and
sub-sequences), ``DIR/commands.parquet`` (metadata of every language variant of every command) and
``DIR/simulation.json`` (what was planted, how often). The same arguments give the same bytes; memory
depends on `chunk_users`, not on `users`.
"""

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from random import Random

import numpy as np
from tqdm import tqdm

from data_processing.simulate_catalogue import LANGUAGES, Catalogue, build_catalogue
from data_processing.simulate_grammar import SUBSEQUENCES, User, build_grammar
from data_processing.simulate_messages import MessageTable
from data_processing.simulate_output import LogWriter, SessionFacts, TruthWriter, clean_items, commands_table
from data_processing.simulate_rows import Chunk, Expander
from data_processing.simulate_session import Facts, Operations, Rates, run_session
from recsys.errors import ConfigError, RecsysError, nearest

LOG_FORMATS = ("batch", "live")
FILE_FORMATS = ("csv", "parquet", "jsonl")
_EPOCH = 1_736_150_400_000_000  # 2025-01-06 08:00 UTC, in microseconds
_MINUTE = 60_000_000


@dataclass(frozen=True)
class NoiseConfig:
    """How often everything beside the tasks happens; chances unless said otherwise."""

    undo_rate: float = 0.06  # undo chain after an event, mean over users
    repeat_rate: float = 0.1  # an event repeated 1 to 4 times
    interruption_rate: float = 0.12  # planted sub-sequence after an event
    clutter_rate: float = 0.2  # single generic command after a step
    view_rate: float = 0.25  # view operations per real operation
    chatter_rate: float = 0.03  # alerts, dialogs, document rows per real operation
    cts_share: float = 0.5  # share of CTS rows among all rows (about .85 in real logs)
    abort_rate: float = 0.01  # event begun and aborted after a tool or menu
    stray_undo_rate: float = 0.05  # sessions that begin with an undo row that matches nothing
    short_session_rate: float = 0.03  # sessions of 1 to 3 operations
    rare_rate: float = 0.02  # rare command after a task
    quoted_batch: bool = False  # names in quotes in batch tables too, as in the live log
    clock_phase: bool = False  # live log: second counter not in phase with the wall clock (as in real logs)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, bool) and not 0 <= value <= 0.95:
                raise ConfigError(f"noise {item.name} ({value}) must lie in 0 to 0.95")


@dataclass
class SimulationReport:
    """What was written. `planted` counts each planted feature; `seconds` is wall time."""

    users: int = 0
    sessions: int = 0
    raw_rows: int = 0
    clean_events: int = 0
    commands: int = 0
    chunks: int = 0
    largest_chunk_rows: int = 0
    files: list[str] = field(default_factory=list)
    rows_by_category: dict[str, int] = field(default_factory=dict)
    planted: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rows_per_second(self) -> float:
        """Raw rows written per second of wall time."""
        return self.raw_rows / max(self.seconds, 1e-9)


def simulate(
    out: Path,
    users: int = 300,
    sessions_per_user: int | range = range(4, 13),
    seed: int = 0,
    log_format: str = "batch",
    file_format: str | None = None,
    noise: NoiseConfig | None = None,
    *,
    events_per_session: float = 60.0,
    chunk_users: int = 64,
    rows_per_file: int = 500_000,
    include_user: bool = True,
    overwrite: bool = False,
    progress: bool = False,
) -> SimulationReport:
    """Write logs, truth and metadata to `out`, which appears only when all is written.

    `sessions_per_user` is a number or a range to draw from; `events_per_session` the mean number of clean
    events; `file_format` defaults to csv for batch tables and jsonl for the live log; `include_user` adds
    the column ``user_anonymized`` to batch tables. Raises `ConfigError` for values out of range and for an
    `out` in use.
    """
    drawn = sessions_per_user
    counts = drawn if isinstance(drawn, range) else range(drawn, drawn + 1)
    file_format = file_format or ("csv" if log_format == "batch" else "jsonl")
    noise = noise or NoiseConfig()
    job = _Job(users, counts, seed, log_format, file_format, noise, events_per_session, chunk_users,
               rows_per_file, include_user)  # fmt: skip
    _check(job, out, overwrite)
    began = time.perf_counter()
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        report = _write(job, partial, progress)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    report.seconds = time.perf_counter() - began
    return report


@dataclass(frozen=True)
class _Job:
    users: int
    counts: range
    seed: int
    log_format: str
    file_format: str
    noise: NoiseConfig
    events: float
    chunk_users: int
    rows_per_file: int
    with_user: bool


def _write(job: _Job, folder: Path, progress: bool) -> SimulationReport:
    """Write everything into `folder`."""
    noise = job.noise
    catalogue = build_catalogue()
    table = MessageTable(catalogue, quoted=job.log_format == "live" or noise.quoted_batch)
    expander = Expander(catalogue, table, noise.view_rate, noise.chatter_rate, noise.cts_share)
    (folder / "truth").mkdir(parents=True)
    report = SimulationReport(users=job.users, commands=sum(not c.noise for c in catalogue.commands))
    truth_file = TruthWriter(folder / "truth" / "clean.parquet", clean_items(catalogue))
    log_files = LogWriter(folder / "logs", table, job.log_format, job.file_format, job.rows_per_file, job.with_user)
    total = -(-job.users // job.chunk_users)
    with log_files as logs, truth_file as truth:
        chunks = _chunks(catalogue, expander, job)
        for chunk, sessions in tqdm(chunks, total=total, desc="simulate", disable=not progress):
            logs.write(chunk, sessions)
            truth.write(chunk, sessions)
            _tally(report, chunk, len(sessions.session_id))
    report.files, report.rows_by_category = logs.files, dict(sorted(logs.by_category.items()))
    settings = {"seed": job.seed, "log_format": job.log_format, "noise": asdict(noise)}
    _write_facts(folder, catalogue, report, settings)
    return report


def _check(job: _Job, out: Path, overwrite: bool) -> None:
    for name, value, known in (
        ("log_format", job.log_format, LOG_FORMATS),
        ("file_format", job.file_format, FILE_FORMATS),
    ):
        if value not in known:
            raise ConfigError(f"{name} '{value}' is not known{nearest(value, known)}")
    sizes = {"users": job.users, "chunk_users": job.chunk_users, "rows_per_file": job.rows_per_file,
             "events_per_session": job.events}  # fmt: skip
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} ({size}) must be at least 1")
    if len(job.counts) == 0 or min(job.counts) < 1:
        raise ConfigError(f"sessions_per_user ({job.counts}) must hold at least one number, from 1 on")
    if out.exists():
        # Only a folder that this generator made (or an empty one) is ever replaced.
        if not out.is_dir() or (any(out.iterdir()) and not (out / "simulation.json").is_file()):
            raise ConfigError(f"{out}: exists and is not an earlier simulation; choose another --out")
        if any(out.iterdir()) and not overwrite:
            raise ConfigError(f"{out}: holds an earlier simulation; choose another --out or pass --overwrite")


def _chunks(catalogue: Catalogue, expander: Expander, job: _Job) -> Iterator[tuple[Chunk, SessionFacts]]:
    """Chunks of `chunk_users` users with their sessions."""
    grammar = build_grammar(catalogue)
    facts, noise, seed = Facts(grammar), job.noise, job.seed
    rates = Rates(noise.repeat_rate, noise.interruption_rate, noise.clutter_rate, noise.abort_rate,
                  noise.short_session_rate, noise.rare_rate, noise.stray_undo_rate)  # fmt: skip
    number = 0
    for index, first in enumerate(range(0, job.users, job.chunk_users)):
        ops = Operations()
        for user_number in range(first, min(first + job.chunk_users, job.users)):
            rng = Random(f"{seed}-{user_number}")
            user = User(grammar, rng, noise.undo_rate)
            for _ in range(rng.choice(job.counts)):
                ops.sessions.append((user_number, len(ops.kind)))
                ops.languages.append(user.language)
                run_session(facts, user, ops, rng, rates, job.events)
        random = np.random.default_rng([seed, first])
        chunk = expander.expand(ops, random)
        day = _EPOCH + index * 2 * 1440 * _MINUTE
        yield chunk, _session_facts(ops, chunk, seed, number, day, noise.clock_phase, random)
        number += len(ops.sessions)


def _session_facts(
    ops: Operations,
    chunk: Chunk,
    seed: int,
    number: int,
    day: int,
    clock_phase: bool,
    random: np.random.Generator,
) -> SessionFacts:
    """Ids, start times and clocks of a chunk's sessions; sessions of one user never overlap."""
    users = np.array([user for user, _ in ops.sessions])
    ends = np.append(np.flatnonzero(np.diff(chunk.session)), len(chunk.session) - 1)
    pause = 40 * _MINUTE + (random.exponential(180.0, len(users)) * _MINUTE).astype(np.int64)
    step = np.concatenate(([0], (chunk.elapsed[ends] + pause)[:-1]))
    first = np.flatnonzero(np.diff(users, prepend=-1))
    total = np.cumsum(step)
    offset = random.integers(0, 8 * 60 * _MINUTE, len(first)) - total[first]
    start = day + total + np.repeat(offset, np.diff(np.append(first, len(users))))
    uptime = random.integers(20, 50_000, len(users)) * 1_000_000
    phase = random.integers(0, 1_000_000, len(users))
    return SessionFacts(
        session_id=[_hex_id(seed, number + i, 0x9E3779B97F4B) for i in range(len(users))],
        user_id=[_serial(_hex_id(seed, int(user), 0xC2B2AE3D27D5)) for user in users],
        language=np.array(ops.languages),
        start=start,
        uptime=uptime + (phase if clock_phase else start % 1_000_000),
    )


def _hex_id(seed: int, number: int, factor: int) -> str:
    """Twelve hex digits, different for every number (an odd factor permutes the residues)."""
    return f"{((number + 1) * factor + seed * 0x1003F) % (1 << 48):012x}"


def _serial(digits: str) -> str:
    return "SIM-29-" + "-".join(digits[i : i + 4].upper() for i in (0, 4, 8))


def _tally(report: SimulationReport, chunk: Chunk, sessions: int) -> None:
    report.chunks += 1
    report.sessions += sessions
    report.raw_rows += len(chunk.code)
    report.clean_events += len(chunk.clean_command)
    report.largest_chunk_rows = max(report.largest_chunk_rows, len(chunk.code))
    report.planted = dict(sorted((Counter(report.planted) + Counter(chunk.counts)).items()))


def _write_facts(partial: Path, catalogue: Catalogue, report: SimulationReport, settings: dict[str, object]) -> None:
    """Metadata, planted pairs and sub-sequences, and the report."""
    commands = catalogue.commands
    commands_table(catalogue).write_parquet(partial / "commands.parquet")
    pairs = [
        {
            "high": commands[high].canonical_id,
            "low": commands[low].canonical_id,
            "high_item_ids": [commands[high].item_id(language) for language in LANGUAGES],
            "low_item_ids": [commands[low].item_id(language) for language in LANGUAGES],
        }
        for high, low in catalogue.pairs()
    ]
    subsequences = [[commands[catalogue.index[key]].canonical_id for key in text.split()] for text in SUBSEQUENCES]
    facts = {name: value for name, value in asdict(report).items() if name != "seconds"}  # same bytes on every run
    for name, value in (
        ("truth/planted_pairs.json", pairs),
        ("truth/subsequences.json", subsequences),
        ("simulation.json", settings | facts),
    ):
        (partial / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _parse_range(text: str) -> range:
    low, _, high = text.partition("-")
    return range(int(low), int(high or low) + 1)


def _parse_noise(settings: list[str]) -> NoiseConfig:
    defaults = {item.name: item.default for item in fields(NoiseConfig)}
    values: dict[str, bool | float] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in defaults:
            raise ConfigError(f"--noise {key}: not known{nearest(key, defaults)}")
        try:
            values[key] = value.lower() in ("1", "true", "yes") if isinstance(defaults[key], bool) else float(value)
        except ValueError as error:
            raise ConfigError(f"--noise {key}: '{value}' is not a number") from error
    return NoiseConfig(**values)  # type: ignore[arg-type]


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    made = argparse.ArgumentParser(
        prog="python -m data_processing.simulate",
        description="Generate Vectorworks-style logs with known truth.",
        epilog="example: python -m data_processing.simulate --out out/simulated --users 200 --seed 0 --format batch",
    )
    made.add_argument("--out", type=Path, required=True, help="folder to make")
    made.add_argument("--users", type=int, default=None, help="number of users (300; 60 with --quick)")
    made.add_argument(
        "--sessions",
        type=_parse_range,
        default=range(4, 13),
        metavar="N|LOW-HIGH",
        help="sessions of each user (4-12)",
    )
    made.add_argument("--events", type=float, default=60.0, help="mean clean events of a session (60)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--format", choices=LOG_FORMATS, default="batch", help="batch tables or the live log")
    made.add_argument("--file-format", choices=FILE_FORMATS, help="csv for batch, jsonl for live unless given")
    made.add_argument(
        "--noise",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"one of {', '.join(item.name for item in fields(NoiseConfig))}",
    )
    made.add_argument("--chunk-users", type=int, default=64, help="users in memory at a time (64)")
    made.add_argument("--rows-per-file", type=int, default=500_000)
    made.add_argument("--no-user", action="store_true", help="leave out the column user_anonymized")
    made.add_argument("--quick", action="store_true", help="a fifth of the users")
    made.add_argument("--overwrite", action="store_true", help="replace an earlier simulation in --out")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status (2 after a one-line error)."""
    given = parser().parse_args(arguments)
    users = given.users if given.users is not None else (60 if given.quick else 300)
    try:
        report = simulate(
            given.out,
            users,
            given.sessions,
            given.seed,
            given.format,
            given.file_format,
            _parse_noise(given.noise),
            events_per_session=given.events,
            chunk_users=given.chunk_users,
            rows_per_file=given.rows_per_file,
            include_user=not given.no_user,
            overwrite=given.overwrite,
            progress=sys.stderr.isatty(),
        )
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{given.out}: {report.raw_rows:,} rows of {report.sessions:,} sessions of {report.users:,} users, "
        f"{report.clean_events:,} clean events, {report.seconds:.1f} s, {report.rows_per_second:,.0f} rows/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
