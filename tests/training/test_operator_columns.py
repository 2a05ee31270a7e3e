"""A model reads columns made by the ETL's operators: the next item follows from them alone, and is learnt."""

import random
from pathlib import Path

import numpy as np
import polars as pl
import torch

from recsys.config import RunConfig
from recsys.data.dataset import SequenceDataset
from recsys.etl import Etl, preprocess
from recsys.inference import load
from recsys.training import train
from tests.tiny_run import make_config

DAY = 1_700_006_400_000_000  # a midnight in UTC
HOUR = 3_600_000_000
RARE = ("teal", "plum")  # in two hash buckets of two (asserted)


def make_events(sessions: int, seed: int = 0) -> pl.DataFrame:
    """The next item's three bits are the event's half of the day, whether its price is high, and its rare colour."""
    rng = random.Random(seed)
    rows = []
    for session in range(sessions):
        item, time = 0, DAY
        for event in range(12):
            late, high, colour = rng.randrange(2), rng.randrange(2), rng.randrange(2)
            time = DAY + event * 24 * HOUR + (6 + 12 * late) * HOUR + rng.randrange(HOUR)
            price = 60.0 + rng.random() if high else rng.random()
            rows.append((f"s{session:03d}", time, f"item {item}", RARE[colour], price))
            item = 4 * late + 2 * high + colour
    names = ["session_id", "timestamp", "item_id", "colour", "price"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_hour_weekday_buckets_and_hashed_values_are_read(tmp_path: Path) -> None:
    (tmp_path / "colours.txt").write_text("never seen\n")
    etl = (
        Etl()
        .categorical("item_id")
        .categorical("colour", vocabulary=str(tmp_path / "colours.txt"), hash_buckets=2)
        .time("hour", "weekday", "log_gap")
        .bucketise("price", quantiles=2)
        .config()
    )
    values = make_config().model_dump(mode="json")
    values |= {"etl": etl, "split": {"test_share": 0.1}}
    values["training"] |= {"epochs": 8, "batch_size": 16, "learning_rate": 0.01, "threads": 1, "patience": None}
    config = RunConfig.model_validate(values)
    preprocess(make_events(140), config, tmp_path / "data")
    dataset = SequenceDataset.load(tmp_path / "data", "test")
    assert set(dataset.columns) == {"item_id", "colour", "hour", "weekday", "price_bucket", "log_gap"}
    assert set(np.unique(dataset.columns["colour"])) == {4, 5}  # behind the one known value
    train(tmp_path / "data", config, tmp_path / "run")
    run = load(tmp_path / "run", device="cpu")
    assert {"hour", "weekday", "price_bucket", "colour"} <= set(run.model.inputs.event_categorical)
    right, total = hits(run.model, dataset)
    assert total > 100 and right / total > 0.9  # by chance: 1 in 8


@torch.no_grad()
def hits(model: torch.nn.Module, dataset: SequenceDataset) -> tuple[int, int]:
    """Of the events after the first, how many the model puts first, from the event before each alone."""
    right = total = 0
    for start, stop in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True):
        inputs = {name: torch.tensor(np.asarray(v[start : stop - 1]))[:, None] for name, v in dataset.columns.items()}
        inputs = {name: v if v.is_floating_point() else v.long() for name, v in inputs.items()}
        hidden = model.backbone(model.inputs(inputs), torch.ones(len(inputs["item_id"]), dtype=torch.long))
        best = model.item_scores(hidden[:, -1]).argmax(dim=-1).numpy()
        right += int((best == dataset.items[start + 1 : stop]).sum())
        total += len(best)
    return right, total
