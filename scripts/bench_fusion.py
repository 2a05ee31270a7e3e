#!/usr/bin/env python3
"""Fusion of five streams, forward and backward, beside the plain way: CPU seconds and peak memory.

    python scripts/bench_fusion.py --json figures.json

Streams: item, class, target, text (each depends on the item) and one of numbers, of the document's width 1024, for 64
sequences of 110 events over 4,000 items by Zipf's law. Ours: `recsys.nn.fusion`. The plain way: every stream of every
event is projected, PyTorch's attention, output projection of each stream, pooling, all with the same weights. `inputs`
measures the encoders too (embeddings, perceptron, per-stream projections), from ids to fused vectors.

Every way runs in processes of its own, in turn, on one thread. Seconds are CPU seconds of a forward and backward pass
after a first one; a way's figure is the median over all turns. Peak memory is the process's, PyTorch itself included.
The first pass's output of both ways is compared.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recsys.inputs import CONTINUOUS, PRETRAINED, SequenceInputs
from recsys.nn.continuous import ContinuousMLP
from recsys.nn.embedding import PretrainedTable, id_embedding
from recsys.nn.fusion import SelfAttentionFusion
from recsys.runtime import atomic_file, command_line
from recsys.schema import FIRST_ID

WAYS = ("ours", "plain")
CLASSES, TARGETS = 30, 100
NUMBERS = ["timestamp_interval", "merge_count"]


def build(size: int, items: int) -> SequenceInputs:
    """The document's inputs: five streams of width `size`, fused by self-attention with 4 heads."""
    ids = torch.arange(items + FIRST_ID)
    cardinality = {"item_id": items, "classification": CLASSES, "target": TARGETS}
    streams = [*cardinality, PRETRAINED, CONTINUOUS]
    return SequenceInputs(
        item="item_id",
        attributes=torch.stack([FIRST_ID + ids % count for count in (CLASSES, TARGETS)], dim=1),
        item_attributes=["classification", "target"],
        item_bags={},
        event_bags={},
        event_categorical=[],
        event_continuous=NUMBERS,
        embeddings={name: id_embedding(count + FIRST_ID, size) for name, count in cardinality.items()},
        pretrained=PretrainedTable(torch.randn(len(ids), size)),
        gaps={},
        continuous=ContinuousMLP(len(NUMBERS), size),
        context=None,
        widths=dict.fromkeys(streams, size),
        stream_size=size,
        hidden_size=1,
        fusion=SelfAttentionFusion(size, 4),
        dropout=0.0,
    )


def draw(batch: int, length: int, items: int) -> dict[str, Tensor]:
    """Columns ``[B, T]`` of one batch: items by Zipf's law, normal numbers."""
    share = 1.0 / torch.arange(1, items + 1)
    ids = torch.multinomial(share, batch * length, replacement=True).view(batch, length) + FIRST_ID
    return {"item_id": ids} | {name: torch.randn(batch, length) for name in NUMBERS}


def plain_fusion(fusion: SelfAttentionFusion, streams: Tensor) -> Tensor:
    """The document's formulas on every stream of every event: ``[M, N, D]`` to ``[M, D]``."""
    split = fusion.qkv(streams).unflatten(-1, (3, fusion.num_heads, -1))  # [M, N, 3, h, D/h]
    query, key, value = split.permute(2, 0, 3, 1, 4)  # each [M, h, N, D/h]
    attended = functional.scaled_dot_product_attention(query, key, value)
    attended = fusion.output(attended.transpose(1, 2).flatten(2))  # [M, N, D]
    weights = (attended @ fusion.query / math.sqrt(attended.shape[-1])).softmax(-1)  # [M, N]
    pooled: Tensor = (weights.unsqueeze(-1) * attended).sum(1)
    return pooled


def fuse(inputs: SequenceInputs, columns: dict[str, Tensor], way: str) -> Tensor:
    """Fused vectors ``[M, D]`` from ids."""
    streams = inputs.streams(columns, share=way == "ours")
    assert isinstance(inputs.fusion, SelfAttentionFusion)
    if way == "ours":
        fused: Tensor = inputs.fusion(streams)
        return fused
    return plain_fusion(inputs.fusion, torch.stack([s.values for s in streams], dim=1))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What one process finds: CPU and wall seconds of each pass after the first, peak memory, sum of the output."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs, way = build(options.size, options.items), options.way
    columns = draw(options.batch, options.length, options.items)
    assert isinstance(inputs.fusion, SelfAttentionFusion)
    if options.part == "fusion":  # streams as they come from the encoders
        with torch.no_grad():
            streams = inputs.streams(columns, share=way == "ours")
        leaves = [s.values.requires_grad_() for s in streams]
    seconds, walls, checksum = [], [], 0.0
    for step in range(1 + options.passes):
        begin, wall = time.process_time(), time.perf_counter()
        if options.part == "inputs":
            fused = fuse(inputs, columns, way)
        elif way == "ours":
            fused = inputs.fusion(streams)
        else:
            fused = plain_fusion(inputs.fusion, torch.stack(leaves, dim=1))
        fused.square().mean().backward()
        if step:
            seconds.append(time.process_time() - begin)
            walls.append(time.perf_counter() - wall)
        checksum = float(fused.detach().double().square().mean())
        inputs.zero_grad()
        del fused
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "walls": walls, "peak": peak, "checksum": checksum}


def compare(options: argparse.Namespace, part: str) -> dict[str, float]:
    """Both ways in turn, each in a process of its own; figures of one part."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    shape = [f"--{name}={getattr(options, name)}" for name in ("batch", "length", "size", "items", "passes")]
    for _ in range(options.turns):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--part", part, *shape]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[way].append(json.loads(done.stdout))
    sums = [run["checksum"] for runs in found.values() for run in runs]
    if not math.isclose(min(sums), max(sums), rel_tol=1e-4):
        raise AssertionError(f"the ways give different results: {sums}")
    cpu, wall = ({w: median(s for run in found[w] for s in run[key]) for w in WAYS} for key in ("seconds", "walls"))
    peak = {way: max(run["peak"] for run in found[way]) / 1e9 for way in WAYS}
    return {
        f"cpu_seconds_{part}": round(cpu["ours"], 4),
        f"plain_cpu_seconds_{part}": round(cpu["plain"], 4),
        f"speedup_vs_plain_{part}": round(cpu["plain"] / cpu["ours"], 2),
        f"wall_speedup_vs_plain_{part}": round(wall["plain"] / wall["ours"], 2),
        f"peak_memory_gb_{part}": round(peak["ours"], 3),
        f"plain_peak_memory_gb_{part}": round(peak["plain"], 3),
        f"peak_memory_ratio_vs_plain_{part}": round(peak["ours"] / peak["plain"], 3),
    }


@command_line
def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        prog="bench_fusion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64, help="sequences (default 64)")
    parser.add_argument("--length", type=int, default=110, help="events a sequence (default 110)")
    parser.add_argument("--size", type=int, default=1024, help="width of the streams (default 1024)")
    parser.add_argument("--items", type=int, default=4000, help="items of the catalogue (default 4000)")
    parser.add_argument("--passes", type=int, default=2, help="measured passes a process (default 2)")
    parser.add_argument("--turns", type=int, default=3, help="processes a way (default 3)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process and print what it found")
    parser.add_argument("--part", choices=("fusion", "inputs"), help="measure this part alone")
    options = parser.parse_args(arguments)
    if options.way:
        options.part = options.part or "fusion"
        print(json.dumps(measure(options)))
        return
    figures: dict[str, float] = {}
    print(f"{'part':<8}{'ours':>10}{'plain':>10}{'speed-up':>10}{'wall':>8}{'memory':>9}{'plain':>9}{'ratio':>8}")
    for part in [options.part] if options.part else ["fusion", "inputs"]:
        found = compare(options, part)
        figures |= found
        ours, plain, speed, wall, peak, plain_peak, ratio = found.values()
        print(f"{part:<8}{ours:>9.2f}s{plain:>9.2f}s{speed:>9.2f}x{wall:>7.2f}x", end="")
        print(f"{peak:>6.2f} GB{plain_peak:>6.2f} GB{ratio:>8.2f}", flush=True)
    if options.json:
        with atomic_file(options.json) as work:
            work.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(None))
