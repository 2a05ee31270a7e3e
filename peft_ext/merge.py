"""Merge the adapters of a run into its backbone, which gives an ordinary run: it needs no pretrained model any more.

Example: python -m peft_ext.merge --run runs/lora --out runs/merged
"""

import argparse
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.config import PeftConfig, RunConfig, save_config
from recsys.errors import InputError, RunError
from recsys.run_directory import RunDirectory
from recsys.runtime import atomic_folder, command_line, note, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

    from recsys.data.dataset import SequenceDataset
    from recsys.inference import LoadedRun
    from recsys.recommender import Recommender

HISTORIES = 256
"""Histories whose scores are compared."""
TOLERANCE = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.05}
"""Mean difference of scores, in their spread, above which a note is made, by the type that the base computed in."""
INT8_TOLERANCE = 0.1
"""The same for int8, whatever the type: its layers round what they read, too."""
KEPT = ("schema.json", "workflow", "cleaning", "dataset.json", "history.json")
"""What a merged run takes over as it is; figures are measured anew."""


def merge(run: Path, out: Path, data: Path | None = None, *, compare: bool = True) -> dict[str, Any]:
    """Write `run` with its adapters merged to `out`; returns what ``out/environment.json`` says of it under `merged`.

    The weights are float32: the pretrained ones, dequantised where the run has quantised them, plus the adapters. The
    scores of `HISTORIES` histories are computed before and after and their difference is noted, loudly where it is
    above the `tolerance`. All of it happens on the CPU, since float32 may not fit the card that the run was trained on.

    Args:
        run: a finished run whose `model.peft` freezes the backbone.
        out: the run directory to write.
        data: sequence dataset that the histories are from; None: the one that the run was trained on.
        compare: whether scores are compared at all.

    Raises:
        RunError: the run is an ordinary or a merged one already.
        InputError: `out` exists, or the dataset is not there or has no sequence.
        SchemaError: the dataset was not made with the run's workflow.
    """
    from recsys.inference import load

    directory = RunDirectory(run)
    config = directory.load_config()
    _require_adapted(directory, config)
    source = data or Path(str(directory.read_json(directory.environment_file)["dataset"]["path"]))
    histories = _histories(source, config) if compare else None
    loaded = load(run, device="cpu")
    if histories is not None:
        loaded.require_data(histories.schema, source)
    before = None if histories is None else _scores(loaded.model, histories)
    noted: dict[str, Any] = {
        "run": str(run),
        "weights": sha256_file(directory.weights),
        "method": config.model.peft.method,
        "quantization": config.model.peft.quantization,
    }
    with atomic_folder(out) as work:
        _write(loaded, config, work, noted)
        del loaded  # one model at a time: they are large
        if histories is not None and before is not None:
            noted["difference"] = difference(before, _scores(load(work, device="cpu").model, histories))
            noted["tolerance"] = tolerance(config.model.peft)
            _write_environment(directory, work, noted)
    if histories is not None:
        _note_if_far(out, config.model.peft, noted)
    return noted


def tolerance(peft: PeftConfig) -> float:
    """How far scores may be apart after merging, on average and in their spread, before it is worth a note."""
    return INT8_TOLERANCE if peft.quantization == "int8" else TOLERANCE[peft.compute_dtype]


def _note_if_far(out: Path, peft: PeftConfig, noted: dict[str, Any]) -> None:
    """Say where the difference is above the tolerance; the merged run itself is right, it computes in float32."""
    found, limit = noted["difference"], noted["tolerance"]
    if found["mean"] <= limit * found["spread"]:
        return
    held = "int8" if peft.quantization == "int8" else peft.compute_dtype
    share = found["mean"] / found["spread"] if found["spread"] else math.inf
    note(
        f"{out}: scores differ by {share:.2g} of their spread from the adapted run's, more than the {limit} that "
        f"{held} explains; measure the merged run anew, or train with compute_dtype float32 and no int8"
    )


def _require_adapted(directory: RunDirectory, config: RunConfig) -> None:
    if config.model.peft.freezes:
        return
    merged = directory.environment_file.is_file() and "merged" in directory.read_json(directory.environment_file)
    why = "is merged already" if merged else "has no adapters (model.peft.method is none)"
    raise RunError(f"{directory.path}: {why}, so there is nothing to merge; use it as it is")


def _histories(data: Path, config: RunConfig) -> "SequenceDataset":
    """The first split of a dataset that has a sequence."""
    from recsys.data.dataset import SequenceDataset

    fix = "give --data DIR, or --unchecked"
    if not (data / "schema.json").is_file():
        raise InputError(f"{data}: no sequence dataset to compare scores on; {fix}")
    for name in ("test", "val", "train"):
        if list((data / name).glob("*.parquet")):
            split = SequenceDataset.load(data, name, config.model.backbone.needs_times)
            if split.lengths.any():
                return split
    raise InputError(f"{data}: no sequence to compare scores on; {fix}")


def _scores(model: "Recommender", data: "SequenceDataset") -> "Tensor":
    """Scores ``[P, V]`` of the known items after the newest events of the first P sequences."""
    import numpy as np
    import torch

    from recsys.inference.scoring import hidden_states, window_histories

    row = np.flatnonzero(data.lengths > 0)[:HISTORIES]
    stop = data.offsets[row + 1]
    start = np.maximum(data.offsets[row], stop - max(1, min(int(model.backbone.max_length) - 1, 64)))  # type: ignore[arg-type]
    found = []
    with torch.no_grad():
        for at in range(0, len(row), 16):
            begin, length = start[at : at + 16], (stop - start)[at : at + 16]
            states = hidden_states(model, data, begin, length)  # [B, T, H]
            last = (torch.arange(len(begin)) * states.shape[1] + torch.from_numpy(length - 1)).to(states.device)  # [B]
            history = window_histories(model, data, begin, length, last)
            found.append(model.item_scores(states.flatten(0, 1)[last], history).cpu())
    scores = torch.cat(found)
    return scores[:, torch.isfinite(scores).all(dim=0)]


def difference(before: "Tensor", after: "Tensor") -> dict[str, float]:
    """How far scores ``[P, V]`` of two models are apart.

    Returns:
        `largest` and `mean` absolute difference, `spread` (standard deviation of a history's scores, on average) to
        compare them with, and the share of histories whose first item is the same.
    """
    apart = (before.double() - after.double()).abs()
    return {
        "histories": float(len(before)),
        "largest": float(apart.max()),
        "mean": float(apart.mean()),
        "spread": float(before.double().std(dim=1).mean()),
        "same_first": float((before.argmax(dim=1) == after.argmax(dim=1)).double().mean()),
    }


def _write(loaded: "LoadedRun", config: RunConfig, work: Path, noted: dict[str, Any]) -> None:
    """The files of a merged run."""
    from peft_ext.adapters import merge_
    from recsys.build.peft import adapters_of
    from recsys.training.trainer import save_weights

    source, target = loaded.directory, RunDirectory(work)
    for name in KEPT:
        if (source.path / name).is_dir():
            shutil.copytree(source.path / name, work / name)
        elif (source.path / name).is_file():
            shutil.copyfile(source.path / name, work / name)
    backbone: Any = loaded.model.backbone
    merge_(backbone.model, adapters_of(config.model.peft))
    backbone.external, backbone.base = frozenset(), None
    save_weights(loaded.model, target.weights)
    target.weights.chmod(0o644)
    plain = config.model.backbone.model_copy(update={"pretrained": None})
    model = config.model.model_copy(update={"peft": PeftConfig(), "backbone": plain})
    save_config(config.model_copy(update={"model": model}), target.config_file)
    _write_environment(source, work, noted)


def _write_environment(source: RunDirectory, work: Path, noted: dict[str, Any]) -> None:
    target = RunDirectory(work)
    target.write_json(target.environment_file, {**source.read_json(source.environment_file), "merged": noted})


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, merge and print the difference of the scores."""
    parser = argparse.ArgumentParser(
        prog="python -m peft_ext.merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="finished run with adapters")
    parser.add_argument("--out", type=Path, required=True, help="run directory to write")
    parser.add_argument("--data", type=Path, help="dataset of the histories compared (default: the run's own)")
    parser.add_argument("--unchecked", action="store_true", help="compare no scores")
    given = parser.parse_args(arguments)
    noted = merge(given.run, given.out, given.data, compare=not given.unchecked)
    print(f"merged: {given.out}: an ordinary run, float32")
    if "difference" in noted:
        found = noted["difference"]
        print(
            f"scores of {found['histories']:.0f} histories: largest difference {found['largest']:.2g}, mean "
            f"{found['mean']:.2g}, at a spread of {found['spread']:.2g} "
            f"(tolerated on average: {noted['tolerance'] * found['spread']:.2g}); "
            f"the same first item in {found['same_first']:.1%}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
