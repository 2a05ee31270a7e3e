"""Lists, and one value a sequence, from a raw table to a recommendation: learnt, evaluated and served alike."""

import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.config import RunConfig
from recsys.data.batch import Batch
from recsys.data.dataset import SequenceDataset
from recsys.errors import ConfigError, InputError, SchemaError
from recsys.etl import Etl, Extension, preprocess
from recsys.evaluation import evaluate
from recsys.inference import LoadedRun, load, recommend
from recsys.schema import Schema, Scope
from recsys.training import train
from recsys.training.initial import start_from
from tests.tiny_run import make_config

ETL = (
    Etl()
    .categorical("item_id")
    .categorical("tags", multi_valued=True, delimiter="|")
    .categorical("genres", multi_valued=True)
    .categorical("country")
    .continuous("age")
    .interval(zscore=False, log1p=False)
    .context("country", "age")
)
GENRES = pl.DataFrame({"item_id": [f"item {n}" for n in range(4)], "genres": [["a"], ["a", "b"], [], None]})


def make_events(sessions: int, seed: int = 0) -> pl.DataFrame:
    """The next item's two bits are the session's country and whether the event is tagged 'high', among other tags."""
    rng = random.Random(seed)
    rows = []
    for session in range(sessions):
        item, country = 0, session % 2
        for event in range(10):
            high = rng.randrange(2)
            tags = [rng.choice(["x", "y", "z"]) for _ in range(rng.randrange(3))] + ["high"] * high
            rng.shuffle(tags)
            time = session * 10**9 + event * 10**6
            rows.append((f"s{session:03d}", time, f"item {item}", tags, ("DE", "US")[country], 30.0 + country))
            item = 2 * country + high
    names = ["session_id", "timestamp", "item_id", "tags", "country", "age"]
    return pl.DataFrame(rows, schema=names, orient="row")


def config(epochs: int = 1, **model: object) -> RunConfig:
    values = make_config(**model).model_dump(mode="json")
    values |= {"etl": ETL.config(), "split": {"test_share": 0.2}}
    values["training"] |= {"epochs": epochs, "batch_size": 16, "learning_rate": 0.01, "threads": 1, "patience": None}
    return RunConfig.model_validate(values)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LoadedRun]:
    folder = tmp_path_factory.mktemp("lists")
    preprocess(make_events(90), config(), folder / "data", commands=GENRES)
    gaps = {**make_config().model.inputs.model_dump(), "gaps": {"timestamp_interval": {"buckets": 4}}}
    train(folder / "data", config(6, inputs=gaps), folder / "run")
    return folder, load(folder / "run", device="cpu")


def columns_of(events: pl.DataFrame, run: LoadedRun) -> dict[str, torch.Tensor]:
    """One session's columns as a batch of one row, made of raw values by hand."""
    names = {n: run.workflow.vocabulary(n).values.to_list() for n in ("item_id", "tags", "country")}

    def ids(column: str, values: list) -> torch.Tensor:
        return torch.tensor([3 + names[column].index(v) if v in names[column] else 2 for v in values], dtype=torch.long)

    lists = events["tags"].to_list()
    scaling = run.workflow.fitted.scalings["age"]
    gaps = np.diff(events["timestamp"].to_numpy(), prepend=events["timestamp"][0]) / 1e6
    return {
        "item_id": ids("item_id", events["item_id"].to_list())[None],
        "tags": ids("tags", [v for values in lists for v in values]),
        "tags.offsets": torch.tensor(np.cumsum([0, *map(len, lists)])),
        "country": ids("country", [events["country"][0]]),
        "age": torch.tensor([(events["age"][0] - scaling.mean) / scaling.std], dtype=torch.float32),
        "timestamp_interval": torch.tensor(gaps, dtype=torch.float32)[None],
    }


@torch.no_grad()
def scores_of(events: pl.DataFrame, run: LoadedRun) -> torch.Tensor:
    """``[V]`` behind the newest events of a session."""
    gap = pl.Series("gap", np.diff(events["timestamp"].to_numpy(), prepend=events["timestamp"][0]))
    newest = events.tail(run.max_length)
    columns = columns_of(newest, run)
    columns["timestamp_interval"] = torch.tensor(gap.tail(run.max_length).to_numpy() / 1e6, dtype=torch.float32)[None]
    length = torch.tensor([newest.height])
    if run.model.rule.every_position:
        batch = Batch({**{f"inputs.{n}": v for n, v in columns.items()}, "lengths": length, "row_id": length})
        return run.model.item_scores(run.model.hidden(batch)[:, -1])[0]
    states = run.model.predictive(run.model.inputs(columns), length)
    return run.model.item_scores(states[:, newest.height - 1])[0]


def test_the_next_item_is_learnt_from_them(made: tuple[Path, LoadedRun]) -> None:
    folder, run = made
    inputs = run.model.inputs
    assert list(inputs.event_bags) == ["tags"] and list(inputs.item_bags) == ["genres"]
    assert list(inputs.context.tables) == ["country"] and inputs.context.continuous == ["age"]
    figures = evaluate(run, folder / "data", baselines=False).figures["all"]["model"]
    assert figures["recall@1"] > 0.9  # by chance: 1 in 4


def served(run: LoadedRun, given: Path | pl.DataFrame) -> dict[str, dict[str, float]]:
    lists = recommend(run, given, k=4)
    return {
        str(name[0]): dict(zip(part["item_id"], part["score"], strict=True))
        for name, part in lists.group_by("session_id")
    }


def require_served(run: LoadedRun, events: pl.DataFrame, found: dict[str, dict[str, float]]) -> None:
    items = run.workflow.vocabulary("item_id").values.to_list()
    for (name,), session in events.group_by("session_id", maintain_order=True):
        expected = scores_of(session, run)
        assert found[str(name)] == pytest.approx({n: float(expected[3 + k]) for k, n in enumerate(items)}, abs=1e-4)


def test_raw_tables_are_served_as_trained(made: tuple[Path, LoadedRun], tmp_path: Path) -> None:
    _, run = made
    events = make_events(6, seed=7).with_columns(  # an unknown value in a list, an unknown country
        tags=pl.when(pl.col("session_id") == "s001").then(pl.lit(["new", "high"])).otherwise("tags"),
        country=pl.when(pl.col("session_id") == "s002").then(pl.lit("FR")).otherwise("country"),
    )
    require_served(run, events, served(run, events))
    events.write_parquet(tmp_path / "events.parquet")
    require_served(run, events, served(run, tmp_path / "events.parquet"))
    text = events.with_columns(pl.col("tags").list.join("|"))
    text.write_csv(tmp_path / "events.csv", quote_style="non_numeric")  # an empty list is "", no value is nothing
    require_served(run, events, served(run, tmp_path / "events.csv"))


@pytest.mark.parametrize(
    ("model", "fusion"),
    [
        ({"backbone": {"name": "bert"}, "masking": "mlm"}, "concatenation"),
        ({"backbone": {"name": "xlnet"}, "masking": "permutation"}, "gated"),
        ({"backbone": {"name": "bert"}, "masking": "replaced"}, "item_product"),
    ],
)
def test_other_maskings_read_them(made: tuple[Path, LoadedRun], model: dict, fusion: str, tmp_path: Path) -> None:
    backbone = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, **model["backbone"]}
    inputs = {"embedding_size": 8, "fusion_size": 16, "fusion_heads": 2, "fusion": fusion}
    train(made[0] / "data", config(1, backbone=backbone, masking=model["masking"], inputs=inputs), tmp_path / "run")
    run, events = load(tmp_path / "run", device="cpu"), make_events(4, seed=7)
    require_served(run, events, served(run, events))


def test_what_a_request_lacks_is_named(made: tuple[Path, LoadedRun]) -> None:
    _, run = made
    events = make_events(2)
    with pytest.raises(InputError, match=r"^events: column 'country' is missing; .*; the run reads one value of it a"):
        recommend(run, events.drop("country"))
    with pytest.raises(InputError, match=r"^events: column 'tags' is missing"):
        recommend(run, events.drop("tags"))
    with pytest.raises(InputError, match=r"^events: column 'tags' is Int\d+, .*multi_valued; a list a row is needed"):
        recommend(run, events.with_columns(tags=pl.lit(3)))
    spoilt = events.with_columns(country=pl.when(pl.int_range(pl.len()) == 13).then(pl.lit("FR")).otherwise("country"))
    with pytest.raises(InputError, match=r"^events: column 'country', row 14: another value than before in 's001'"):
        recommend(run, spoilt)


def test_data_of_another_form_are_refused(made: tuple[Path, LoadedRun], tmp_path: Path) -> None:
    folder, run = made
    changed = Schema.load(folder / "data" / "schema.json")
    changed["tags"].multi_valued = False
    with pytest.raises(SchemaError, match="'tags' holds one value a row, the run was trained with lists of values"):
        run.require_data(changed, "data")
    changed = Schema.load(folder / "data" / "schema.json")
    changed["country"].scope = Scope.EVENT
    with pytest.raises(SchemaError, match="'country' is of scope event, the run was trained with sequence"):
        run.require_data(changed, "data")


@pytest.mark.parametrize(("column", "why"), [("tags", "holds lists"), ("country", "is one value a sequence")])
def test_they_are_no_labels(made: tuple[Path, LoadedRun], column: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"model.auxiliary: column '{column}' {why}; it cannot be predicted"):
        train(made[0] / "data", config(auxiliary=[{"column": column}]), tmp_path / "run")


def test_class_weights_of_a_column_of_the_events(tmp_path: Path) -> None:
    events = make_events(30).with_columns(mood=pl.col("tags").list.first())
    etl = Etl().categorical("item_id").categorical("mood", min_count=2).config()
    head = {"column": "mood", "loss": {"name": "cross_entropy", "class_weights": "inverse_frequency"}}
    settings = config(auxiliary=[head]).model_copy(update={"etl": etl})
    preprocess(events, settings, tmp_path / "data")
    run = load(train(tmp_path / "data", settings, tmp_path / "run").path, device="cpu")
    ids = SequenceDataset.load(tmp_path / "data", "train").columns["mood"]
    counts = np.bincount(ids, minlength=run.schema["mood"].num_ids())[3:]
    expected = 1 / counts / np.mean(1 / counts)
    found = run.model.heads["mood"].class_weights[3:].numpy()
    np.testing.assert_allclose(found / found.mean(), expected, rtol=1e-5)


def test_more_values_are_learnt_from_a_runs_weights(made: tuple[Path, LoadedRun], tmp_path: Path) -> None:
    folder, run = made
    more = make_events(40, seed=3).with_columns(
        tags=pl.when(pl.col("session_id") > "s020").then(pl.lit(["new", "high"])).otherwise("tags"),
        country=pl.when(pl.col("session_id") == "s001").then(pl.lit("FR")).otherwise("country"),
        item_id=pl.when(pl.col("session_id") == "s003").then(pl.lit("item 9")).otherwise("item_id"),
    )
    genres = pl.concat([GENRES, pl.DataFrame({"item_id": ["item 9"], "genres": [["q", "a", "b", "q"]]})])
    none = config().model_copy(
        update={"split": RunConfig.model_validate({"split": {"rule": "none", "into": "train"}}).split}
    )
    preprocess(more, none, tmp_path / "data", commands=genres, blank=Extension.of(folder / "run"))
    train(tmp_path / "data", run.config.model_copy(update={"training": config().training}), tmp_path / "fresh")
    model = load(tmp_path / "fresh", device="cpu").model
    start_from(model, folder / "run", tmp_path / "data")
    old, new = run.model.state_dict(), model.state_dict()
    for name in ("event_bags.tags.table", "item_bags.genres.values.table", "context.tables.country"):
        before, after = old[f"inputs.{name}.weight"], new[f"inputs.{name}.weight"]
        assert len(after) == len(before) + 1 and torch.equal(after[: len(before)], before)
    assert new["inputs.item_bags.genres.bags"].tolist()[-1] == [5, 3, 4, 5]  # of the data, wider than the run's
    require_same = make_events(3, seed=5)
    again = LoadedRun(run.path, run.config, run.schema, load(tmp_path / "fresh").workflow, model)
    for _, session in require_same.group_by("session_id"):
        torch.testing.assert_close(scores_of(session, again)[3:7], scores_of(session, run)[3:7])
