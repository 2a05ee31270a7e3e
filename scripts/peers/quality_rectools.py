"""RecTools' SASRec on a leave-one-out table, for `scripts/bench_quality.py`: public API only, chosen on validation.

``FOLDER --seed S --minutes M [--factors ...]``: FOLDER holds train.parquet, val.parquet and test.parquet with columns
user_id, item_id and timestamp. Trains epoch by epoch until `patience` epochs bring no better validation NDCG@10 or the
CPU minutes are over, goes back to the best weights, and writes the ranks of the test items (1 to 10; 0: a miss) in the
order of test.parquet to FOLDER/rectools-S.npz, and its flags, CPU seconds and curve to FOLDER/rectools-S.json.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

K = 10
NAMES = {"user_id": Columns.User, "item_id": Columns.Item, "timestamp": Columns.Datetime}


def read(path: Path) -> pd.DataFrame:
    """Interactions as RecTools wants them."""
    table = pd.read_parquet(path)[list(NAMES)].rename(columns=NAMES)
    table[Columns.Datetime] = pd.to_datetime(table[Columns.Datetime])
    return table.assign(**{Columns.Weight: 1.0})


def ranks(model: SASRecModel, history: pd.DataFrame, targets: pd.DataFrame) -> np.ndarray:
    """Rank ``[users]`` of each user's target among all items that training knows, seen ones included; 0 beyond K."""
    users = targets[Columns.User].to_numpy()
    found = model.recommend(users=users, dataset=Dataset.construct(history), k=K, filter_viewed=False)
    hits = found.merge(targets[[Columns.User, Columns.Item]], on=[Columns.User, Columns.Item])
    rank = pd.Series(0, index=users)
    rank.loc[hits[Columns.User]] = hits[Columns.Rank].to_numpy()
    return rank.to_numpy()


def ndcg(rank: np.ndarray) -> float:
    """NDCG@10 of one target a user."""
    return float(np.where(rank > 0, 1 / np.log2(1 + np.maximum(rank, 1)), 0.0).mean())


def trainer() -> Trainer:
    """A quiet one; `fit_partial` says for how many epochs."""
    quiet: Mapping[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, max_epochs=1, **quiet)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--loss", default="sampled_softmax")
    parser.add_argument("--negatives", type=int, default=128)
    return parser.parse_args()


def main() -> None:
    """Train, choose, measure."""
    options = parse_arguments()
    torch.set_num_threads(1)
    seed_everything(options.seed)
    train, val, test = (read(options.folder / f"{split}.parquet") for split in ("train", "val", "test"))
    model = SASRecModel(
        n_blocks=options.blocks,
        n_heads=options.heads,
        n_factors=options.factors,
        dropout_rate=options.dropout,
        session_max_len=options.length,
        loss=options.loss,
        n_negatives=options.negatives,
        get_trainer_func=trainer,
    )
    data = Dataset.construct(train)
    begin = time.process_time()
    curve: list[float] = []
    best: dict[str, Any] = {}
    while (time.process_time() - begin) / 60 < options.minutes:
        model.fit_partial(data, min_epochs=1, max_epochs=1)
        curve.append(ndcg(ranks(model, train, val)))
        print(f"epoch {len(curve)}: {curve[-1]:.4f}, {time.process_time() - begin:,.0f} CPU s", flush=True)
        if curve[-1] == max(curve):
            best = deepcopy(model.torch_model.state_dict())
        elif len(curve) - 1 - int(np.argmax(curve)) >= options.patience:
            break
    seconds = time.process_time() - begin
    model.torch_model.load_state_dict(best)
    rank = ranks(model, pd.concat([train, val]), test)
    np.savez(options.folder / f"rectools-{options.seed}.npz", ranks=rank)
    found = {"flags": sys.argv[2:], "cpu_seconds": seconds, "epochs": len(curve), "validation_ndcg@10": curve}
    (options.folder / f"rectools-{options.seed}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
