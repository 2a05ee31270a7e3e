"""Columns of one value a sequence: stored once, and refused with file and row where they change."""

from pathlib import Path

import polars as pl
import pytest

from recsys.buckets import Workers
from recsys.config import EtlConfig, RunConfig
from recsys.errors import ConfigError, InputError
from recsys.etl import Etl, Workflow, preprocess
from recsys.schema import Kind, Scope, Tag

ETL = (
    Etl()
    .categorical("item_id")
    .categorical("country")
    .continuous("age")
    .bucketise("age", boundaries=[30.0])
    .context("country", "age")
)
CONFIG = RunConfig.model_validate({"etl": ETL.config(), "split": {"rule": "every_nth", "by": "session_id"}})


def make_events(sessions: int = 12, length: int = 4) -> pl.DataFrame:
    """Sessions in turn, one row each; each has a country (or none) and an age."""
    rows = [
        (f"s{s:02d}", f"u{s // 2}", f"i{(s + n) % 3}", n * 10**6 + s, ("DE", "US", None)[s % 3], 20.0 + s)
        for n in range(length)
        for s in range(sessions)
    ]
    names = ["session_id", "user_id", "item_id", "timestamp", "country", "age"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_one_value_a_sequence(tmp_path: Path) -> None:
    made = preprocess(make_events(), CONFIG, tmp_path / "out")
    rows = pl.concat([pl.read_parquet(tmp_path / "out" / name / "*.parquet") for name in ("train", "val", "test")])
    assert rows.height == 12
    workflow = Workflow.load(tmp_path / "out")
    countries, scaling = workflow.vocabulary("country").values.to_list(), workflow.fitted.scalings["age"]
    for session, country, bucket, age in rows.select("session_id", "country", "age_bucket", "age").rows():
        number = int(session[1:])
        expected = ("DE", "US", None)[number % 3]
        assert country == (1 if expected is None else 3 + countries.index(expected))
        assert bucket == (3 if 20 + number < 30 else 4)
        assert age == pytest.approx((20 + number - scaling.mean) / scaling.std, rel=1e-5)
    kinds = {"country": Kind.CATEGORICAL, "age": Kind.CONTINUOUS, "age_bucket": Kind.CATEGORICAL}
    assert {c.name: c.kind for c in made.schema.select(scope=Scope.SEQUENCE)} == kinds
    assert all(c.tags == [Tag.CONTEXT] for c in made.schema.select(scope=Scope.SEQUENCE))
    assert workflow.plan.context == ["country", "age"] and workflow.schema == made.schema
    sequences = workflow.transform(make_events())
    assert sequences.sort("session_id").select(rows.columns).equals(rows.sort("session_id"))


def spoil(events: pl.DataFrame, row: int, value: str | None = "FR") -> pl.DataFrame:
    return events.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise("country").alias("country")
    )


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_change_names_file_and_row(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.etl.events.BUCKET_ROWS", 20)
    monkeypatch.setattr("recsys.etl.events.BATCH_ROWS", 7)
    events = spoil(make_events(), 40)  # of session s04, whose first row is 5
    (tmp_path / "events").mkdir()
    events[:30].write_csv(tmp_path / "events" / "a.csv")
    events[30:].write_csv(tmp_path / "events" / "b.csv")
    with pytest.raises(InputError) as caught:
        preprocess(tmp_path / "events", CONFIG, tmp_path / "out", workers=Workers(engine, 2))
    expected = f"{tmp_path / 'events' / 'b.csv'}: column 'country', row 11: another value than before in 's04'"
    assert str(caught.value).startswith(expected) and "take it out of etl.context" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_value_beside_others_is_a_change(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^events: column 'country', row 25: another value than before in 's00'"):
        preprocess(spoil(make_events(), 24, None), CONFIG, tmp_path / "out")
    with pytest.raises(InputError, match=r"^events: column 'country', row 25: another value than before in 's00'"):
        Workflow(ETL.config()).fit(spoil(make_events(), 24, None))


def test_of_users_where_sequences_are_users(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"split": RunConfig.model_validate({"split": {"rule": "leave_last"}}).split})
    with pytest.raises(InputError, match=r"^events: column 'country', row 2: another value than before in 'u0'"):
        preprocess(make_events(), config, tmp_path / "out")  # s00 and s01 are of one user, in two countries
    alike = make_events().with_columns(country=pl.col("user_id"), age=pl.col("user_id").str.slice(1).cast(pl.Float64))
    preprocess(alike, config, tmp_path / "out")
    assert pl.read_parquet(tmp_path / "out" / "train" / "*.parquet")["country"].n_unique() == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": ["item_id"]}, "'item_id' changes from event to event"),
        ({"context": ["timestamp_interval"]}, "'timestamp_interval' changes from event to event"),
        ({"context": ["contry"]}, r"'contry' is no column of the section \(did you mean 'country'\?\); name it under"),
        ({"context": ["country", "country"]}, "'country' stands there twice"),
        ({"context": ["tags"]}, "'tags' is multi_valued; a sequence has one value of it"),
    ],
)
def test_declarations_that_cannot_be_are_refused(changes: dict, message: str) -> None:
    categorical = {"item_id": {}, "country": {}, "tags": {"multi_valued": True}}
    values = {"categorical": categorical, "continuous": {"timestamp_interval": {}}, **changes}
    with pytest.raises(ConfigError, match=message):
        Workflow(EtlConfig.model_validate(values))


def test_a_column_of_the_commands_is_no_context(tmp_path: Path) -> None:
    commands = pl.DataFrame({"item_id": ["i0", "i1", "i2"], "maker": ["a", "b", "c"]})
    etl = Etl().categorical("item_id").categorical("maker").context("maker").config()
    with pytest.raises(ConfigError, match="'maker' is a column of the commands, not of the events"):
        preprocess(make_events(), RunConfig(etl=etl), tmp_path / "out", commands=commands)
