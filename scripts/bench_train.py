"""Loss positions per CPU second of our training beside the naive way of training the same model.

    python scripts/bench_train.py --json bench_train.json

Naive: windows in random order, every batch padded to the longest window allowed, every stream and the fusion computed
for every token, logits of the whole ``[B, T, V]`` formed and the loss taken by PyTorch from them. Ours: what
`recsys.training` runs. Both take the same windows, weights, optimizer and number of sequences a batch, on one thread,
in turns, and are checked to give the same loss. A position is a label, padding not counted.

Shapes: ML-1M's (6,040 users, 3,416 items, a million events, Zipf; SASRec's sizes: width 64, 2 layers, batch 128) at
windows of 50 and 200 events, ours with ``model.loss.dtype: bfloat16`` (the product with the item table; all else and
the naive way in float32); the same at 50 events all in float32; and our preset for command logs
(configs/visual_studio.yaml) on 440 commands, as it is.

    python scripts/bench_train.py --peers --peers-env ../peers --json bench_train.json

measures, after all that, also the SASRec backbone (1 head, dropout 0.2, the full softmax) beside RecTools, RePlay and
sequifier on the same ML-1M shape: every library by its own means of training, in a process of its own, in turn. Their
environment is made once, at the versions of scripts/peers/requirements.txt, in the folder --peers-env, without which
--peers is refused. A peer that cannot be measured is null and says why. With ``--data ml-100k`` the data are
MovieLens-100K (943 users, 1,682 items, 100,000 events), which pip fetches into the same folder; the naive way is left
out then, and the figures' names begin with ``ml100k_``.

    python scripts/bench_train.py --catalogue 1000000 --json catalogue.json

measures sampled softmax (256 uniform negatives, width 64) over so many items instead: peak memory of this one process
and labels per CPU second, with an output table of its own and with the item embedding as output table (tied).
"""

import argparse
import gc
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recsys.build import build_masking, build_model
from recsys.config import RunConfig, TrainingConfig, load_config
from recsys.data.batch import Batch
from recsys.data.collate import Collator
from recsys.data.dataset import Array, SequenceDataset, Windows
from recsys.data.names import Names
from recsys.heads import CatalogueHead
from recsys.losses import CrossEntropy, Focal
from recsys.nn.fusion import SelfAttentionFusion
from recsys.recommender import Recommender
from recsys.runtime import atomic_file, command_line
from recsys.schema import FIRST_ID, Column, Kind, Schema, Scope, Tag
from recsys.training.batches import BatchStream
from recsys.training.optim import build_optimizer
from scripts.peers import harness, movielens
from scripts.peers.common import peak_memory, reset_peak

PRESET = Path(__file__).resolve().parent.parent / "configs" / "visual_studio.yaml"
TURNS = 4
ITEMS = 3416  # of ML-1M
PEER_LENGTHS = (50, 200)
DATA = {"ml-1m": "", "ml-100k": "ml100k_"}
"""Data of --peers, and what the names of their figures begin with; ml-1m is generated in its shape."""
SASREC = {
    "inputs": {"embedding_size": 64, "fusion": "sum", "fusion_size": 64, "dropout": 0.0},
    "backbone": {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "intermediate_size": 64},
    "auxiliary": [],
}


@dataclass(frozen=True)
class Case:
    """One comparison: a name for the figures, data and configuration."""

    name: str
    data: SequenceDataset
    items: pl.DataFrame
    config: RunConfig


def generate(lengths: Array, items: int, attributes: Sequence[str], continuous: Sequence[str], seed: int) -> Case:
    """Sequences of independent Zipf items, with item attributes and real-valued columns drawn at random."""
    rng = np.random.default_rng(seed)
    share = 1.0 / np.arange(1, items + 1)
    total = int(lengths.sum())
    ids = rng.choice(items, size=total, p=share / share.sum()).astype(np.int32) + FIRST_ID
    classes = 30
    schema = Schema(
        columns=[
            Column(name="item_id", kind=Kind.CATEGORICAL, tags=[Tag.ITEM_ID], cardinality=items + FIRST_ID),
            *(
                Column(name=name, kind=Kind.CATEGORICAL, scope=Scope.ITEM, cardinality=classes + FIRST_ID)
                for name in attributes
            ),
            *(Column(name=name, kind=Kind.CONTINUOUS, dtype="float32") for name in continuous),
        ]
    )
    drawn = {name: rng.integers(FIRST_ID, classes + FIRST_ID, size=items + FIRST_ID) for name in attributes}
    columns = {"item_id": ids, **{c: rng.standard_normal(total).astype(np.float32) for c in continuous}}
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    keys = Names.of(str(row) for row in range(len(lengths)))
    data = SequenceDataset(schema, offsets, columns, drawn, keys, keys)
    return Case("", data, pl.DataFrame({"id": range(items + FIRST_ID), **drawn}), RunConfig())


def spread_lengths(count: int, mean: float, shortest: int, sigma: float, seed: int) -> Array:
    """Log-normal sequence lengths (most are short, a few very long) that add up to about ``count * mean``."""
    drawn = np.random.default_rng(seed).lognormal(0.0, sigma, size=count)
    return np.maximum(shortest, np.round(drawn * (mean - shortest) / drawn.mean() + shortest)).astype(np.int64)


def build_cases(users: int) -> list[Case]:
    """The comparisons; `users` below ML-1M's 6,040 makes them smaller."""
    lengths = spread_lengths(users, 166.0, 20, 1.1, seed=0)
    made = generate(lengths, ITEMS, [], [], seed=1)
    cases = []
    for name, length, dtype in (
        ("len50", 50, "bfloat16"),
        ("len200", 200, "bfloat16"),
        ("len50_float32", 50, "float32"),
    ):
        loss = {"name": "cross_entropy", "dtype": dtype}
        config = RunConfig.model_validate(
            {"model": {**SASREC, "max_length": length, "loss": loss}, "training": TrainingConfig(batch_size=128)}
        )
        cases.append(Case(name, made.data, made.items, config))
    sessions = spread_lengths(max(50, users // 2), 85.0, 5, 1.35, seed=2)
    made = generate(sessions, 440, ["classification", "target"], ["timestamp_interval", "merge_count"], seed=3)
    preset = load_config(PRESET)
    return [*cases, Case("preset", made.data, made.items, preset)]


def naive_loss(model: Recommender, batch: Batch) -> Tensor:
    """The model's loss, written as a person would write it first. Batch columns ``[B, T]``."""
    inputs = batch.inputs
    vectors = model.inputs.dropout(model.inputs.output(naive_fusion(model, inputs)))  # [B * T, H]
    shape = inputs["item_id"].shape
    hidden = model.backbone(vectors.view(*shape, -1), batch.lengths)  # [B, T, H]
    total = hidden.new_zeros(())
    for name, head in model.heads.items():
        assert isinstance(head, CatalogueHead)
        positions, targets = batch.labels(name)
        wanted = torch.full((shape.numel(),), -100)
        wanted[positions] = targets - FIRST_ID
        logits = (head.dropout(hidden) @ head.table(model.inputs.item_table()).T)[..., FIRST_ID:]  # [B, T, V]
        total = total + model.weights[name] * plain_loss(head.loss_function, logits.flatten(0, 1), wanted)
    return total


def plain_loss(loss: object, logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean over targets that are not -100. logits ``[M, V]``, wanted ``[M]``."""
    if isinstance(loss, Focal):
        nll = functional.cross_entropy(logits, wanted, reduction="none")
        return ((1.0 - torch.exp(-nll)) ** loss.gamma * nll).sum() / (wanted >= 0).sum()
    assert isinstance(loss, CrossEntropy)
    return functional.cross_entropy(logits, wanted, label_smoothing=loss.label_smoothing)


def naive_fusion(model: Recommender, inputs: dict[str, Tensor]) -> Tensor:
    """Fused vectors ``[B * T, D]``, every stream of every token computed."""
    streams = torch.stack([s.values for s in model.inputs.streams(inputs, share=False)], dim=1)  # [M, N, D]
    fusion = model.inputs.fusion
    if not isinstance(fusion, SelfAttentionFusion):
        return streams.sum(1) / math.sqrt(streams.shape[1])
    split = fusion.qkv(streams).unflatten(-1, (3, fusion.num_heads, -1))  # [M, N, 3, h, D/h]
    query, key, value = split.permute(2, 0, 3, 1, 4)  # each [M, h, N, D/h]
    attended = functional.scaled_dot_product_attention(query, key, value)
    attended = fusion.output(attended.transpose(1, 2).flatten(2))  # [M, N, D]
    weights = (attended @ fusion.query / math.sqrt(attended.shape[-1])).softmax(-1)
    pooled: Tensor = (weights.unsqueeze(-1) * attended).sum(1)
    return pooled


def pad_to(batch: Batch, length: int) -> Batch:
    """The batch with its columns padded on the right to `length` events."""
    rows, width = next(iter(batch.inputs.values())).shape
    tensors = {f"inputs.{name}": functional.pad(x, (0, length - width)) for name, x in batch.inputs.items()}
    for head in batch.label_heads():
        positions, _ = batch.labels(head)
        tensors[f"labels.{head}.positions"] = positions // width * length + positions % width
    assert rows == len(batch.lengths)
    return batch.with_tensors(tensors)


class Way:
    """One way of training: takes batches, steps, and counts labels and CPU seconds."""

    def __init__(self, case: Case, batches: Iterator[Windows], naive: bool) -> None:
        torch.manual_seed(0)
        self.length = case.config.model.max_length
        self.model = build_model(case.config.model, case.data.schema, case.items).train()
        self.optimizer = build_optimizer(self.model, case.config.training)
        self.collate = Collator(case.data, list(self.model.heads), build_masking(case.config.model.masking))
        self.batches = batches
        self.loss: Callable[[Batch], Tensor] = self._naive if naive else self._ours
        self.labels = 0
        self.seconds = 0.0

    def _naive(self, batch: Batch) -> Tensor:
        return naive_loss(self.model, pad_to(batch, self.length))

    def _ours(self, batch: Batch) -> Tensor:
        loss: Tensor = self.model(batch).loss
        return loss

    def step(self) -> None:
        """Train on the next batch."""
        batch = self.collate(next(self.batches))
        self.optimizer.zero_grad()
        self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.labels += batch.num_labels(self.model.item)

    def run(self, seconds: float) -> None:
        """Train for about this many CPU seconds."""
        begin = time.process_time()
        while time.process_time() - begin < seconds:
            self.step()
        self.seconds += time.process_time() - begin

    @property
    def rate(self) -> float:
        """Label positions per CPU second."""
        return self.labels / self.seconds


def naive_batches(case: Case) -> Iterator[Windows]:
    """The same windows, shuffled, always `batch_size` at a time."""
    stream = BatchStream(case.data, case.config.model.max_length, case.config.training, seed=0)
    number = 0
    while True:
        pieces = stream.epoch(number)
        joined = [np.concatenate([getattr(w, field) for w in pieces]) for field in ("row", "start", "stop")]
        windows = Windows(joined[0], joined[1], joined[2])
        order = np.random.default_rng(number).permutation(len(windows))
        size = case.config.training.batch_size
        yield from (windows[order[at : at + size]] for at in range(0, len(order), size))
        number += 1


def require_same_loss(ours: Way, naive: Way) -> None:
    """Both ways must compute the same number from the same weights and batch (dropout off)."""
    batch = ours.collate(next(ours.batches))
    ours.model.eval()
    left = float(ours.loss(batch).detach())
    right = float(naive_loss(ours.model, pad_to(batch, ours.length)).detach())
    ours.model.train()
    lossy = any(getattr(head.loss_function, "dtype", "") == "bfloat16" for head in ours.model.heads.values())
    if not math.isclose(left, right, rel_tol=1e-2 if lossy else 1e-4):
        raise AssertionError(f"ours gives {left}, the naive way {right}")


def measure(case: Case, seconds: float) -> dict[str, float]:
    """Positions per CPU second of both ways, and their ratio."""
    stream = BatchStream(case.data, case.config.model.max_length, case.config.training, seed=0)
    ours = Way(case, stream.from_batch(0), naive=False)
    naive = Way(case, naive_batches(case), naive=True)
    require_same_loss(ours, naive)
    for way in (ours, naive):  # the first steps allocate
        way.step()
        way.labels = 0
    for _ in range(TURNS):
        ours.run(seconds / TURNS)
        naive.run(seconds / TURNS)
    return {
        f"positions_per_cpu_second_{case.name}": round(ours.rate),
        f"naive_positions_per_cpu_second_{case.name}": round(naive.rate),
        f"speedup_vs_naive_{case.name}": round(ours.rate / naive.rate, 2),
    }


def measure_peers(folder: Path, name: str, users: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Figures of our SASRec and of the peers in the environment `folder`, printed as a table too.

    name: of `DATA`; users: sequences of the generated data.
    """
    peers = harness.peer_environment(folder)
    version = metadata.version("recsys")
    ours = harness.Tool("recsys", harness.HERE / "train_recsys.py", Path(sys.executable), version)
    if name == "ml-100k":
        offsets, ids, items = movielens.read(movielens.fetch(folder))
    else:
        data = build_cases(users)[0].data
        offsets, ids, items = data.offsets, data.columns["item_id"] - FIRST_ID, ITEMS
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "events.npz"
        np.savez(path, offsets=offsets, ids=ids, items=items)
        tallies = harness.measure([ours, *peers], path, PEER_LENGTHS, seconds, rounds)
    figures = harness.figures(ours.name, [ours, *peers], tallies, PEER_LENGTHS)
    print(f"{name}: {len(offsets) - 1:,} sequences, {items:,} items, {len(ids):,} events")
    print(harness.table(ours.name, [ours, *peers], figures, PEER_LENGTHS))
    return {DATA[name] + key: value for key, value in figures.items()}


def measure_naive(users: int, seconds: float) -> dict[str, float]:
    """Figures of every case beside the naive way, printed as a table too."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    print(f"{'case':<14}{'ours':>12}{'naive':>12}{'speed-up':>12}   label positions per CPU second, one thread")
    for case in build_cases(users):
        found = measure(case, seconds)
        figures |= found
        ours, naive, ratio = found.values()
        print(f"{case.name:<14}{ours:>12,.0f}{naive:>12,.0f}{ratio:>11.2f}x", flush=True)
    return figures


def measure_catalogue(items: int, seconds: float) -> dict[str, float]:
    """Peak memory and speed of sampled softmax over `items` items at SASRec's sizes, printed as a table too."""
    torch.set_num_threads(1)
    made = generate(spread_lengths(1000, 166.0, 20, 1.1, seed=0), items, [], [], seed=1)
    figures: dict[str, float] = {"catalogue_items": items}
    print(f"{'output table':<14}{'peak GB':>12}{'labels':>12}   per CPU second, one thread, {items:,} items")
    for name in ("tied", "own"):  # the leaner one first: where the peak cannot be reset, it can only grow
        model = {**SASREC, "max_length": 50, "loss": {"name": "sampled_softmax"}, "tied": name == "tied"}
        config = RunConfig.model_validate({"model": model, "training": TrainingConfig(batch_size=128)})
        gc.collect()  # the tables of the model before
        reset_peak()
        stream = BatchStream(made.data, 50, config.training, seed=0)
        way = Way(Case(name, made.data, made.items, config), stream.from_batch(0), naive=False)
        way.step()  # allocates the optimizer's state
        way.labels = 0
        way.run(seconds)
        found = {"peak_memory_gb": round(peak_memory(), 2), "positions_per_cpu_second": round(way.rate)}
        figures |= {f"{key}_catalogue_{name}": value for key, value in found.items()}
        print(f"{name:<14}{found['peak_memory_gb']:>12.2f}{found['positions_per_cpu_second']:>12,.0f}", flush=True)
        del way
    return figures


@command_line
def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, write JSON."""
    options = parse_arguments(arguments)
    figures: dict[str, Any] = {}
    if options.catalogue is not None:
        figures |= measure_catalogue(options.catalogue, options.seconds)
    elif options.data == "ml-1m":
        figures |= measure_naive(options.users, options.seconds)
    if options.peers:
        figures |= measure_peers(options.peers_env, options.data, options.users, options.seconds, options.rounds)
    if options.json:
        with atomic_file(options.json) as work:
            work.write_text(json.dumps(figures, indent=2) + "\n")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench_train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU seconds a measurement (default 20)")
    parser.add_argument("--users", type=int, default=6040, help="sequences of the ML-1M shape (default 6040)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--peers", action="store_true", help="measure beside other libraries too (with --peers-env)")
    what.add_argument(
        "--catalogue", type=int, metavar="ITEMS", help="measure sampled softmax over so many items instead"
    )
    parser.add_argument("--peers-env", type=Path, metavar="DIR", help="their environment; made where it is missing")
    parser.add_argument("--data", choices=list(DATA), default="ml-1m", help="data of --peers (default ml-1m's shape)")
    parser.add_argument("--rounds", type=int, default=2, help="turns that share a peer's seconds (default 2)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    if options.peers and options.peers_env is None:
        parser.error("--peers needs --peers-env DIR, a folder outside the repository")
    if options.data != "ml-1m" and not options.peers:
        parser.error(f"--data {options.data} goes with --peers")
    if options.catalogue is not None and options.catalogue < 1:
        parser.error(f"--catalogue {options.catalogue}: give a number of items above 0")
    return options


if __name__ == "__main__":
    sys.exit(main(None))
