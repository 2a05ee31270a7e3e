"""Speed and memory of the ETL, beside a plain streaming Polars query and NVTabular, in one run.

    python scripts/bench_etl.py --rows 20000000 --json bench_etl.json

The job: a Parquet table of events in the order of time (session, item, time, a class, a number; sessions overlap, items
are Zipf distributed) to one row a session with lists of ids, intervals and scaled numbers, on disk as Parquet. All
rows are training rows, as the other two know no splits; `ours, split` does more: it draws train, validation and test
with coverage and counts what leaks between them. Each measurement runs in a process of its own, so that its peak
memory is its own; seconds do not include the imports of libraries.

plain Polars: what a person would write for exactly this table (`plain_polars`): counts, then one streaming query that
scans, joins the ids, groups and sinks. NVTabular: Categorify, LogOp, Normalize and Groupby as its examples have them,
on one process and on a tenth of the rows (it is slow); install it with ``bash scripts/setup.sh nvtabular``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from recsys.runtime import atomic_file, command_line, peak_memory_gb

ITEMS, CLASSES, MEAN_LENGTH = 4_000, 20, 50
BATCH = 500_000  # rows generated at a time
ALL_TRAIN = {"rule": "none", "into": "train"}
CONFIG: dict[str, Any] = {
    "etl": {
        "categorical": {"item_id": {}, "cat": {}},
        "continuous": {"timestamp_interval": {"transforms": ["log1p"]}, "value": {"transforms": ["zscore"]}},
        "optional": ["user_id"],
    },
}


def generate(rows: int, path: Path, seed: int = 0) -> None:
    """Events in the order of time; about a thousand sessions are open at once."""
    random = np.random.default_rng(seed)
    chances = 1 / np.arange(1, ITEMS + 1)
    edges = np.cumsum(chances / chances.sum())
    writer, moment, first = None, 1_700_000_000_000_000, 0
    open_sessions = np.arange(1000)
    for start in range(0, rows, BATCH):
        size = min(BATCH, rows - start)
        places = random.integers(0, 1000, size)
        ends = random.random(size) < 1 / MEAN_LENGTH
        sessions = np.empty(size, dtype=np.int64)
        # Between two ends of sessions in a place, its session stays: numbers by the count of ends before.
        order = np.argsort(places, kind="stable")
        counts = np.bincount(places, minlength=1000)
        offsets = np.cumsum(counts) - counts
        before: np.ndarray = np.cumsum(ends[order]) - ends[order]
        ended: np.ndarray = before - np.repeat(before[np.minimum(offsets, size - 1)], counts)
        sessions[order] = np.repeat(open_sessions, counts) + 1000 * ended
        open_sessions = open_sessions + 1000 * np.bincount(places, weights=ends, minlength=1000).astype(np.int64)
        times = moment + np.cumsum(random.integers(1, 20_000, size))
        moment = int(times[-1])
        first += size
        table = pl.DataFrame(
            {
                "session_id": pl.Series(sessions).cast(pl.String).str.zfill(12),
                "item_id": pl.Series(np.minimum(np.searchsorted(edges, random.random(size)), ITEMS - 1)),
                "timestamp": times,
                "cat": pl.Series(random.integers(0, CLASSES, size)),
                "value": random.gamma(2.0, 3.0, size),
            }
        ).with_columns(pl.format("command {}", "item_id").alias("item_id"), pl.format("class {}", "cat").alias("cat"))
        arrow = table.to_arrow()
        writer = writer or pq.ParquetWriter(path, arrow.schema, compression="zstd")
        writer.write_table(arrow)
    assert writer is not None
    writer.close()


def ours(source: Path, out: Path, split: dict[str, Any] | None = None) -> int:
    """`recsys.etl.preprocess`; gives the number of events in sequences."""
    from recsys.config import RunConfig
    from recsys.etl import preprocess

    config = RunConfig.model_validate(CONFIG | {"split": ALL_TRAIN if split is None else split})
    return int(preprocess(source, config, out).report["events_out"])


def ours_split(source: Path, out: Path) -> int:
    """The same with the default split and its leakage report."""
    return ours(source, out, split={})


def plain_polars(source: Path, out: Path) -> int:
    """The same sequences by hand."""
    out.mkdir()
    events = pl.scan_parquet(source)
    statistics = events.select(pl.col("value").mean().alias("mean"), pl.col("value").std(ddof=0).alias("std"))
    counts = [events.group_by(name).agg(pl.len().alias("count")) for name in ("item_id", "cat")]
    *vocabularies, numbers = pl.collect_all([*counts, statistics], engine="streaming")
    rows = events
    for name, found in zip(("item_id", "cat"), vocabularies, strict=True):
        ids = found.sort(["count", name], descending=[True, False]).with_row_index("id", offset=3)
        ids.write_parquet(out / f"unique.{name}.parquet")
        ids = ids.select(name, pl.col("id").cast(pl.Int32).alias(f"{name}_id"))
        rows = rows.join(ids.lazy(), on=name, how="left").drop(name).rename({f"{name}_id": name})
    value = (pl.col("value") - numbers["mean"][0]) / numbers["std"][0]
    time_ = pl.col("timestamp").sort()
    columns = [pl.col(name).sort_by("timestamp") for name in ("item_id", "cat")]
    interval = (time_.diff().fill_null(0) / 1e6).log1p().cast(pl.Float32).alias("timestamp_interval")
    grouped = rows.group_by("session_id").agg(
        time_, *columns, interval, value.cast(pl.Float32).sort_by("timestamp").alias("value")
    )
    grouped.sink_parquet(out / "sequences.parquet", engine="streaming")
    lengths = pl.scan_parquet(out / "sequences.parquet").select(pl.col("timestamp").list.len().sum())
    return int(lengths.collect(engine="streaming").item())


def nvtabular(source: Path, out: Path) -> int:
    """The same sequences by NVTabular, as its examples for session data have it."""
    from recsys.etl.nvtabular_graph import load_nvtabular

    nvt = load_nvtabular()
    import dask
    import pandas as pd

    out.mkdir()
    lists = ["timestamp", "item_id", "cat", "timestamp_difference_lag_1", "value"]
    with dask.config.set(scheduler="synchronous"):
        ids = ["item_id", "cat"] >> nvt.ops.Categorify(out_path=str(out))
        value = ["value"] >> nvt.ops.Normalize()
        lag = ["timestamp"] >> nvt.ops.DifferenceLag(partition_cols=["session_id"], shift=1)
        interval = lag >> nvt.ops.FillMissing(fill_val=0) >> nvt.ops.LambdaOp(lambda gap: gap / 1e6) >> nvt.ops.LogOp()
        wanted = ids + value + interval + ["session_id", "timestamp"]
        aggregates = dict.fromkeys(lists, "list")
        grouped = wanted >> nvt.ops.Groupby(groupby_cols=["session_id"], sort_cols=["timestamp"], aggs=aggregates)
        workflow = nvt.Workflow(grouped)
        # DifferenceLag looks at neighbouring rows, so they are sorted first.
        rows = nvt.Dataset(pd.read_parquet(source).sort_values(["session_id", "timestamp"], ignore_index=True))
        workflow.fit(rows)
        workflow.transform(rows).to_parquet(str(out / "sequences"))
    files = sorted((out / "sequences").glob("*.parquet"))
    return sum(int(pl.read_parquet(f, columns=["item_id_list"])["item_id_list"].list.len().sum()) for f in files)


JOBS: dict[str, Callable[[Path, Path], int]] = {
    "ours": ours,
    "ours, split": ours_split,
    "plain": plain_polars,
    "nvtabular": nvtabular,
}


def measure_here(job: str, source: Path, out: Path) -> dict[str, float]:
    """Run one job in this process."""
    warnings.simplefilter("ignore")
    if job == "nvtabular":
        from recsys.etl.nvtabular_graph import load_nvtabular

        load_nvtabular()
    else:
        import recsys.etl  # noqa: F401
    before, cpu = time.perf_counter(), os.times()
    events = JOBS[job](source, out)
    wall, after = time.perf_counter() - before, os.times()
    used = after.user + after.system - cpu.user - cpu.system
    return {"wall": wall, "cpu": used, "peak_gb": peak_memory_gb(), "events": events}


def measure(job: str, source: Path, folder: Path, repeats: int) -> dict[str, float]:
    """The fastest of `repeats` runs, each in a fresh process; peak memory is the highest."""
    best: dict[str, float] = {}
    for _ in range(repeats):
        out = folder / "out"
        command = [sys.executable, __file__, "--job", job, "--source", str(source), "--out", str(out)]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        shutil.rmtree(out)
        found: dict[str, float] = json.loads(text.strip().splitlines()[-1])
        peak = max(found["peak_gb"], best.get("peak_gb", 0))
        best = min([found, *([best] if best else [])], key=lambda figures: figures["wall"]) | {"peak_gb": peak}
    return best


def show(job: str, rows: int, figures: dict[str, float]) -> None:
    """One line of the table."""
    speed = rows / figures["wall"]
    print(
        f"{job:<11} {rows:>12,} rows {figures['wall']:8.2f} s {figures['cpu']:8.2f} CPU s {speed:>12,.0f} rows/s"
        f" {figures['peak_gb']:6.2f} GB",
        flush=True,
    )


def compare(rows: int, folder: Path, repeats: int, with_nvtabular: bool) -> dict[str, Any]:
    """All measurements: `rows` and a tenth of them."""
    small = rows // 10
    sources = {}
    for size in (small, rows):
        sources[size] = folder / f"events-{size}.parquet"
        generate(size, sources[size])
    found: dict[tuple[str, int], dict[str, float]] = {}
    for job, size in product(("ours", "ours, split", "plain"), (small, rows)):
        found[job, size] = measure(job, sources[size], folder, repeats)
        show(job, size, found[job, size])
        if found[job, size]["events"] != size:
            raise RuntimeError(f"{job}: {found[job, size]['events']} of {size} events")
    own, split, plain = found["ours", rows], found["ours, split", rows], found["plain", rows]
    figures: dict[str, Any] = {
        "rows": rows,
        "rows_per_second": round(rows / own["wall"]),
        "wall_ratio_vs_plain_polars": round(own["wall"] / plain["wall"], 3),
        "cpu_ratio_vs_plain_polars": round(own["cpu"] / plain["cpu"], 3),
        "peak_memory_gb": round(own["peak_gb"], 3),
        "plain_peak_memory_gb": round(plain["peak_gb"], 3),
        "memory_growth": round(own["peak_gb"] / found["ours", small]["peak_gb"], 3),
        "split_wall_ratio_vs_plain_polars": round(split["wall"] / plain["wall"], 3),
        "split_peak_memory_gb": round(split["peak_gb"], 3),
        "split_memory_growth": round(split["peak_gb"] / found["ours, split", small]["peak_gb"], 3),
    }
    if with_nvtabular:
        theirs = measure("nvtabular", sources[small], folder, 1)
        show("nvtabular", small, theirs)
        figures["speedup_vs_nvtabular"] = round(theirs["wall"] / found["ours", small]["wall"], 2)
        figures["cpu_speedup_vs_nvtabular"] = round(theirs["cpu"] / found["ours", small]["cpu"], 2)
        figures["nvtabular_peak_memory_gb"] = round(theirs["peak_gb"], 3)
    return figures


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000, help="of the larger table (default: 20 M)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each job; the fastest counts")
    parser.add_argument("--no-nvtabular", action="store_true", help="leave NVTabular out")
    parser.add_argument("--folder", type=Path, help="for temporary files (default: the system's)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--job", choices=list(JOBS), help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse_arguments(arguments)
    if options.job:
        print(json.dumps(measure_here(options.job, options.source, options.out)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-etl.", dir=options.folder) as folder:
        figures = compare(options.rows, Path(folder), options.repeats, not options.no_nvtabular)
    for name, value in figures.items():
        print(f"{name:<28} {value:,}")
    if options.json:
        with atomic_file(options.json) as path:
            path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
