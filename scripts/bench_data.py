"""Events per CPU second into batches, and what memory a sequence dataset takes at two sizes.

    python scripts/bench_data.py --json bench_data.json

Batches: `recsys.data` and `recsys.training.batches` as training uses them (windows, length buckets, collator, two
heads) over a mapped split of four event columns; beside it the naive way, a Python loop that slices each row's columns
and pads them. One thread; an event counts once for each time it is put into a batch, padding not counted.

Memory: for each size a process of its own opens the split, shuffles an epoch and makes batches. What counts is its
anonymous memory (RssAnon of /proc/self/status, Linux only): pages of mapped files are the system's to take back, and
stand beside it as RssFile.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recsys.build import build_masking
from recsys.config import TrainingConfig
from recsys.data.cache import CACHE
from recsys.data.collate import Collator
from recsys.data.dataset import SequenceDataset, Windows
from recsys.runtime import atomic_file, command_line
from recsys.schema import FIRST_ID, Column, Kind, Schema, Scope, Tag
from recsys.training.batches import BatchStream

ITEMS, CLASSES, MEAN_LENGTH, SHARD = 4000, 30, 250, 1_000_000
LENGTHS = (50, 200)
BATCH = 128
EXTRA = {"cat": pl.Int32, "timestamp_interval": pl.Float32, "merge_count": pl.Float32}


def write_dataset(folder: Path, events: int) -> Path:
    """A train split of about `events` events in shards of a million; sequence lengths are log-normal."""
    item = Column(name="item_id", kind=Kind.CATEGORICAL, tags=[Tag.ITEM_ID], cardinality=ITEMS + FIRST_ID)
    classes = Column(name="classification", kind=Kind.CATEGORICAL, scope=Scope.ITEM, cardinality=CLASSES + FIRST_ID)
    category = Column(name="cat", kind=Kind.CATEGORICAL, cardinality=10)
    numbers = [Column(name=n, kind=Kind.CONTINUOUS) for n in ("timestamp_interval", "merge_count")]
    for name in ("train", "workflow"):
        (folder / name).mkdir(parents=True)
    Schema(columns=[item, classes, category, *numbers]).save(folder / "schema.json")
    ids = pl.int_range(ITEMS + FIRST_ID, eager=True)
    pl.DataFrame({"id": ids, "classification": ids % CLASSES + FIRST_ID}).write_parquet(
        folder / "workflow" / "items.parquet"
    )
    rng = np.random.default_rng(0)
    for shard in range(max(1, events // SHARD)):
        drawn = rng.lognormal(sigma=1.0, size=min(events, SHARD) // MEAN_LENGTH)
        lengths = np.maximum(2, np.round(drawn / drawn.mean() * MEAN_LENGTH)).astype(np.int64)
        row = np.repeat(np.arange(len(lengths)), lengths)
        flat = {name: rng.integers(FIRST_ID, 10, len(row)) for name in EXTRA}
        columns = {"item_id": rng.integers(FIRST_ID, ITEMS, len(row)), **flat}
        frame = pl.DataFrame(columns, schema={"item_id": pl.Int32, **EXTRA})
        keys = pl.format("session-{}-{}", pl.lit(shard), pl.lit(pl.Series(row))).alias("session_id")
        made = frame.group_by(keys, maintain_order=True).all()
        made.write_parquet(folder / "train" / f"part-{shard:05d}.parquet")
    return folder


def stream_of(data: SequenceDataset, length: int) -> BatchStream:
    """Training's own batches, windows of `length` events."""
    return BatchStream(data, length, TrainingConfig(batch_size=BATCH), seed=0)


def naive_batches(data: SequenceDataset, batches: Iterator[Windows]) -> Iterator[dict[str, Tensor]]:
    """The same inputs and labels, a row and a column at a time."""
    classes = torch.from_numpy(data.item_columns["classification"])
    for windows in batches:
        spans = list(zip(windows.start.tolist(), windows.stop.tolist(), strict=True))
        batch = {}
        for name, values in data.columns.items():
            rows = [torch.tensor(values[a : b - 1]) for a, b in spans]
            rows = rows if rows[0].is_floating_point() else [row.long() for row in rows]
            batch[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        width = batch["item_id"].shape[1]
        batch["lengths"] = torch.tensor([b - a - 1 for a, b in spans])
        batch["positions"] = torch.cat([torch.arange(b - a - 1) + i * width for i, (a, b) in enumerate(spans)])
        batch["targets"] = torch.cat([torch.tensor(data.items[a + 1 : b]).long() for a, b in spans])
        batch["classes"] = classes[batch["targets"]]
        yield batch


def measure_batches(data: SequenceDataset, length: int, seconds: float) -> dict[str, float]:
    """Events per CPU second of both ways; ours includes shuffling and cutting the epoch."""
    collate = Collator(data, ["item_id", "classification"], build_masking("causal"))
    events, begin = 0, time.process_time()
    for windows in stream_of(data, length).from_batch(0):
        events += int(collate(windows).lengths.sum())
        if time.process_time() - begin > seconds:
            break
    ours = events / (time.process_time() - begin)
    windows_made = list(islice(stream_of(data, length).from_batch(0), 50))
    begin = time.process_time()
    naive_events = sum(int(batch["lengths"].sum()) for batch in naive_batches(data, iter(windows_made)))
    naive = naive_events / (time.process_time() - begin)
    return {
        f"events_per_cpu_second_len{length}": round(ours),
        f"naive_events_per_cpu_second_len{length}": round(naive),
        f"speedup_vs_naive_len{length}": round(ours / naive, 2),
    }


def resident() -> dict[str, float]:
    """Anonymous and file-backed resident memory of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return {"anonymous": found["RssAnon"] / 1024, "file": found["RssFile"] / 1024}


def watch(folder: Path, batches: int) -> dict[str, float]:
    """Growth of resident memory (its highest point while batches are made) over that before the split was opened."""
    before = resident()
    data = SequenceDataset.load(folder, "train")
    collate = Collator(data, ["item_id", "classification"], build_masking("causal"))
    most = resident()
    for windows in islice(stream_of(data, LENGTHS[0]).from_batch(0), batches):
        collate(windows)
        now = resident()
        most = {kind: max(most[kind], now[kind]) for kind in now}
    return {kind: round(most[kind] - before[kind], 1) for kind in most}


def measure_memory(folder: Path, batches: int) -> dict[str, float]:
    """`watch` in a fresh process."""
    arguments = [sys.executable, __file__, "--watch", str(folder), "--batches", str(batches)]
    found: dict[str, float] = json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    return found


def first_use(folder: Path) -> tuple[SequenceDataset, float]:
    """The split, and events per CPU second of making its flat copy anew."""
    shutil.rmtree(folder / CACHE)
    begin = time.process_time()
    data = SequenceDataset.load(folder, "train")
    return data, len(data.items) / (time.process_time() - begin)


@command_line
def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        prog="bench_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs=2, default=[2_000_000, 20_000_000], help="small and large size")
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU seconds a measurement (default 5)")
    parser.add_argument("--batches", type=int, default=2000, help="batches made while memory is watched")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--watch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.watch:
        print(json.dumps(watch(options.watch, options.batches)))
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench_data.") as work:
        for size, events in zip(("small", "large"), options.events, strict=True):
            folder = write_dataset(Path(work) / size, events)
            figures |= {f"first_use_mb_{size}_{k}": v for k, v in measure_memory(folder, 1).items()}
            data, rate = first_use(folder)
            figures |= {f"batches_mb_{size}_{k}": v for k, v in measure_memory(folder, options.batches).items()}
            figures[f"first_use_events_per_cpu_second_{size}"] = round(rate)
        for length in LENGTHS:
            figures |= measure_batches(data, length, options.seconds)
    for name, value in figures.items():
        print(f"{name:<44}{value:>16,.1f}")
    if options.json:
        with atomic_file(options.json) as file:
            file.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(None))
