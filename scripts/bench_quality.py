#!/usr/bin/env python3
"""Quality on a public leave-one-out table, several seeds, with RecTools' SASRec in the same run.

    python scripts/bench_quality.py --sequences Beauty.txt.xz --config configs/beauty_sasrec.yaml --out out/beauty \\
        --peers-env /tmp/peers --json figures.json

--sequences: one user a line, `user item item ...` in time order (.txt, .xz or .gz), as Amazon Beauty is handed around.
The last item of each user is the test, the one before it validation; all items that training knows are ranked, seen
ones included; ties and unknown items are misses. Every run chooses its epoch on validation. A figure is the mean over
seeds; its 95 % interval resamples users. CPU minutes are those of a seed's training with the validation after each
epoch, ours and RecTools' alike.

With --peers-env (made as for scripts/bench_train.py) RecTools' SASRec is trained with what its authors publish for
this table (eSASRec's benchmark: one block, one head, dropout .2, sampled softmax), for at most --minutes of CPU. Width,
negatives and length are less than theirs (128, 128 and 20 for 256, 256 and 50), to get more epochs into the time; that
theirs do worse in it was not tried. --peer hands other ones on.

A run that is there already with the same settings and data is kept, ours and RecTools'; others are trained again.
"""

import argparse
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model.recipe import run_unless_kept
from recsys.config import RunConfig, override, parse, read_yaml
from recsys.errors import InputError
from recsys.etl import preprocess
from recsys.metrics import bootstrap_interval, position_metrics
from recsys.runtime import atomic_file, command_line, note, sha256_file
from scripts.peers.harness import peer_environment

METRICS = ("recall@10", "ndcg@10")
PEER = Path(__file__).resolve().parent / "peers" / "quality_rectools.py"
STEP = 1_000_000  # microseconds between two events: the table has an order and no clock


@dataclass(frozen=True)
class Line:
    """One model's ranks, one array ``[users]`` a seed, and the CPU seconds of each training."""

    name: str
    ranks: list[np.ndarray]
    cpu_seconds: list[float]

    def figures(self, users: np.ndarray) -> dict[str, Any]:
        """Mean over users and seeds of each metric, its interval, and the mean of each seed."""
        found: dict[str, Any] = {"cpu_minutes": round(float(np.mean(self.cpu_seconds)) / 60, 1)}
        for metric in METRICS:
            values = np.stack([position_metrics(rank, ks=(10,))[metric] for rank in self.ranks])  # [seeds, users]
            found[metric] = float(values.mean())
            found[f"{metric}_interval"] = list(bootstrap_interval(values.mean(axis=0), users))
            found[f"{metric}_seeds"] = values.mean(axis=1).tolist()
        return found


def read_sequences(file: Path) -> pl.DataFrame:
    """Events of ``user item item ...`` lines: columns user_id, session_id (the user), item_id, timestamp.

    Raises:
        InputError: no such file, no text, a user twice or without an item.
    """
    users: list[str] = []
    items: list[list[str]] = []
    seen: set[str] = set()
    for number, line in enumerate(_lines(file), start=1):
        user, *rest = line.split() or [""]
        if not rest or user in seen:
            what = f"user '{user}' is there twice" if rest else "no item behind the user"
            raise InputError(f"{file}: line {number}: {what}; write one user a line: user item item ...")
        seen.add(user)
        users.append(user)
        items.append(rest)
    if not users:
        raise InputError(f"{file}: no line; write one user a line: user item item ...")
    table = pl.DataFrame({"user_id": users, "session_id": users, "item_id": items})
    time = (pl.int_ranges(pl.col("item_id").list.len()) * STEP).alias("timestamp")
    return table.with_columns(time).explode("item_id", "timestamp")


def _lines(file: Path) -> Iterator[str]:
    opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(file.suffix, open)
    try:
        with opener(file, "rt", encoding="utf-8") as stream:
            yield from stream
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error


def configuration(file: Path, settings: Sequence[str], seed: int) -> RunConfig:
    """The run of one seed."""
    return parse(RunConfig, override(read_yaml(file), settings) | {"seed": seed}, file)


def our_line(name: str, configs: Sequence[RunConfig], data: Path, out: Path) -> Line:
    """Train and evaluate each seed, unless its run is there."""
    ranks, seconds = [], []
    for config in configs:
        directory = run_unless_kept(name, data, config, out / f"{name}-{config.seed}")
        found = pl.read_parquet(directory.path / "predictions.parquet").sort("session_id")
        ranks.append(found["rank_model"].to_numpy())
        history = directory.read_json(directory.history_file)
        seconds.append(float(history["cpu_seconds"]) + float(history["validation_cpu_seconds"]))
    return Line(name, ranks, seconds)


def write_splits(events: pl.DataFrame, folder: Path) -> np.ndarray:
    """train, val and test tables for the peer; gives the users ``[users]`` in the order of the test table."""
    folder.mkdir(parents=True, exist_ok=True)
    left = pl.int_range(pl.len(), 0, -1).over("user_id")  # 1: the user's last event
    table = events.sort("user_id", "timestamp").select(
        "user_id", "item_id", pl.from_epoch("timestamp", "us"), left=left
    )
    for name, rows in (("train", pl.col("left") > 2), ("val", pl.col("left") == 2), ("test", pl.col("left") == 1)):
        table.filter(rows).drop("left").write_parquet(folder / f"{name}.parquet")
    return table.filter(pl.col("left") == 1)["user_id"].to_numpy()


def peer_line(options: argparse.Namespace, events: pl.DataFrame) -> Line:
    """RecTools' SASRec, one process a seed."""
    tool = next(tool for tool in peer_environment(options.peers_env) if tool.name == "rectools")
    if tool.missing is not None:
        raise InputError(f"--peers-env {options.peers_env}: RecTools {tool.missing}")
    folder = options.out / "rectools"
    write_splits(events, folder)
    ranks, seconds, data = [], [], sha256_file(options.sequences)
    for seed in options.seeds[: options.peer_seeds]:
        flags = [f"--seed={seed}", f"--minutes={options.minutes}", *options.peer]
        record = folder / f"rectools-{seed}.json"
        found = json.loads(record.read_text()) if record.is_file() else {}
        if (found.get("flags"), found.get("data")) != (flags, data):
            again = "trained again, since flags or data are others" if found else "trained"
            note(f"RecTools {tool.version}, {' '.join(flags)}: {again}")
            with record.with_suffix(".log").open("w") as log:
                done = subprocess.run([str(tool.python), str(PEER), str(folder), *flags], stdout=log)
            if done.returncode != 0:
                raise InputError(f"{PEER.name} ended with {done.returncode}; its words stand above")
            found = json.loads(record.read_text()) | {"data": data}
            record.write_text(json.dumps(found, indent=2) + "\n")
        seconds.append(float(found["cpu_seconds"]))
        with np.load(folder / f"rectools-{seed}.npz") as arrays:
            ranks.append(arrays["ranks"])
    return Line(f"RecTools {tool.version} SASRec", ranks, seconds)


def as_table(figures: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    rows = ["| model | seeds | CPU minutes | Recall@10 | NDCG@10 |", "|---|---|---|---|---|"]
    for name, found in figures.items():
        cells = [name, str(len(found["recall@10_seeds"])), f"{found['cpu_minutes']:.1f}"]
        for metric in METRICS:
            low, high = found[f"{metric}_interval"]
            seeds = ", ".join(f"{value:.4f}" for value in found[f"{metric}_seeds"])
            cells.append(f"{found[metric]:.4f} [{low:.4f}, {high:.4f}] ({seeds})")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench_quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=Path, required=True, help="lines of `user item item ...`")
    parser.add_argument("--config", type=Path, nargs="+", required=True, help="one or several runs' YAML")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting of all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default 0 1 2)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset and the runs")
    parser.add_argument("--peers-env", type=Path, help="environment of the peers, outside the repository")
    parser.add_argument("--peer-seeds", type=int, default=1, help="seeds of RecTools (default 1)")
    parser.add_argument("--minutes", type=float, default=40.0, help="most CPU minutes of RecTools (default 40)")
    parser.add_argument("--peer", action="append", default=[], metavar="FLAG", help="flag for quality_rectools.py")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args(arguments)


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    options = parse_arguments(arguments)
    runs = {file.stem: [configuration(file, options.set, seed) for seed in options.seeds] for file in options.config}
    events = read_sequences(options.sequences)
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "events.parquet"
    events.write_parquet(table)
    users = np.sort(events["user_id"].unique().to_numpy())
    figures: dict[str, dict[str, Any]] = {}
    data = options.out / "dataset"
    preprocess(table, next(iter(runs.values()))[0], data, overwrite=True)
    for name, configs in runs.items():
        figures[name] = our_line(name, configs, data, options.out).figures(users)
        print(as_table({name: figures[name]}).splitlines()[-1], file=sys.stderr, flush=True)
    if options.peers_env is not None:
        line = peer_line(options, events)
        figures[line.name] = line.figures(users)
    print(as_table(figures))
    if options.json:
        with atomic_file(options.json) as work:
            work.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(None))
