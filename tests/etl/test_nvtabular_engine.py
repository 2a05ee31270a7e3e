"""Both engines give the same: on random events, over whole datasets, from saved workflows and on a Dask cluster."""

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from recsys.config import EtlConfig, RunConfig
from recsys.errors import ConfigError
from recsys.etl import preprocess
from recsys.etl.nvtabular_engine import NvtabularWorkflow, preprocess_nvtabular
from recsys.etl.nvtabular_graph import load_nvtabular
from recsys.etl.workflow import Workflow
from tests.etl.nvtabular_cases import VALUES, cases, same_fit, same_frames, same_sequences

dask = pytest.importorskip("dask", reason="scripts/setup.sh nvtabular installs it")
nvt = load_nvtabular()
SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def in_this_process():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For NVTabular's files, and a vocabulary file."""
    path = tmp_path_factory.mktemp("nvtabular")
    (path / "given.txt").write_text("zebra\n😀\nEdit.Copy\n=\n")
    return path


def fit(workflow, events, parts):
    """In `parts` parts of whole sessions."""
    workflow.begin(events.columns)
    names = sorted(set(events["session_id"]))
    for part in range(parts):
        workflow.add(workflow.prepare(events.filter(pl.col("session_id").is_in(names[part::parts]))))
    return workflow.finish()


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # half a second an example: shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.data())
def test_both_engines_give_the_same_on_random_events(folder, data):
    case = data.draw(cases(folder / "given.txt"))
    theirs = fit(Workflow(case.config, 7), case.train, case.parts)
    ours = fit(NvtabularWorkflow(case.config, 7, folder=folder, partitions=case.partitions), case.train, case.parts)
    same_fit(ours, theirs)
    for events, training in ((case.train, True), (case.new, True), (case.new, False)):
        prepared = theirs.prepare(events)
        made = ours.sequences(prepared, training=training)
        same_sequences(made, theirs.sequences(prepared, training=training))
        assert made.rows_in == made.rows_out + sum(made.dropped_rows.values())


def make_events(seed=0, sessions=40, unseen=()):
    """Unsorted events of users with several sessions."""
    rng = np.random.default_rng(seed)
    size = sessions * 8
    number = rng.integers(0, sessions, size)
    prices = np.where(rng.random(size) < 0.1, np.nan, rng.normal(50, 20, size))
    names = [*VALUES, *unseen]
    return pl.DataFrame(
        {
            "session_id": [f"s{n:03d}" for n in number],
            "user_id": [f"u{n % 9}" for n in number],
            "item_id": [None if n < 0 else names[n] for n in rng.integers(-1, len(names), size)],
            "timestamp": 1_700_000_000_000_000 + number * 10**9 + rng.integers(0, 12, size) * 500_000,
            "cat": [None if n < 0 else f"c{n}" for n in rng.integers(-1, 12, size)],
            "price": prices,
        }
    )


CONFIG = {
    "categorical": {"item_id": {"min_count": 2}, "cat": {"top_k": 5, "hash_buckets": 3}},
    "continuous": {"price": {"transforms": ["zscore"]}, "timestamp_interval": {"transforms": ["log1p", "zscore"]}},
    "time": {"features": ["hour", "log_gap"]},
    "bucketise": {"price": {"quantiles": 4}},
    "newest": 9,
    "min_length": 2,
}


def same_datasets(found, expected):
    """Every file but the columns of numbers bit by bit, and the reports but for the engine's name."""
    names = [sorted(str(f.relative_to(path)) for f in path.rglob("*")) for path in (found, expected)]
    assert names[0] == names[1]
    for name in SPLITS:
        ours, theirs = (pl.read_parquet(path / name / "part-*.parquet") for path in (found, expected))
        same_frames(ours, theirs)
    reports = [json.loads((path / "report.json").read_text()) for path in (found, expected)]
    assert [report.pop("engine") for report in reports] == ["nvtabular", "polars"]
    columns = [pl.DataFrame(report.pop("columns"), infer_schema_length=None) for report in reports]
    numbers = ["mean", "std"]
    assert columns[0].drop(numbers).equals(columns[1].drop(numbers))
    np.testing.assert_allclose(*(c.select(numbers).fill_null(0).to_numpy() for c in columns), rtol=1e-9, atol=1e-12)
    assert reports[0] == reports[1]
    same_fit(Workflow.load(found / "workflow"), Workflow.load(expected / "workflow"))


def both(events, config, tmp_path, **given):
    found = preprocess_nvtabular(events, config, tmp_path / "nvtabular", **given).path
    given.pop("workers", None)
    return found, preprocess(events, config, tmp_path / "polars", **given).path


@pytest.mark.parametrize(
    "split, etl",
    [
        ({"rule": "share"}, {}),
        ({"rule": "leave_last", "by": "session_id"}, {}),
        ({"rule": "time", "by": "user_id"}, {"newest": None}),
        ({"rule": "document"}, {"chunk": {"min_items": 3, "max_items": 5}}),
    ],
    ids=lambda part: part.get("rule", ""),
)
def test_datasets_and_reports_are_the_same(tmp_path, split, etl):
    config = RunConfig.model_validate({"split": split, "etl": CONFIG | etl, "seed": 3})
    same_datasets(*both(make_events(), config, tmp_path))


def test_decoded_items_are_the_events_in_time_order(tmp_path):
    events = make_events(1)
    counts = Counter(events["item_id"])
    found = NvtabularWorkflow(
        EtlConfig.model_validate({"categorical": {"item_id": {"min_count": 20}}}), folder=tmp_path
    )
    names = dict(enumerate(found.fit(events).vocabulary("item_id").decode()))
    rows = sorted(enumerate(events.iter_rows(named=True)), key=lambda r: (r[1]["session_id"], r[1]["timestamp"], r[0]))
    expected = [None if v is None else v if counts[v] >= 20 else "unknown" for v in (row["item_id"] for _, row in rows)]
    ids = found.transform(events).sort("session_id")["item_id"].explode().to_list()
    assert [{1: None, 2: "unknown"}.get(n, names[n]) for n in ids] == expected
    assert {1, 2} < set(ids)


def test_a_saved_workflow_makes_the_same_graph_again(tmp_path):
    config = EtlConfig.model_validate(CONFIG)
    fitted = NvtabularWorkflow(config, folder=tmp_path).fit(make_events())
    fitted.save(tmp_path / "workflow")
    again = NvtabularWorkflow(folder=tmp_path).adopt(Workflow.load(tmp_path / "workflow"))
    new = make_events(5, unseen=["never", "seen"])
    for training in (True, False):
        assert again.transform(new, training=training).equals(fitted.transform(new, training=training))
    same_fit(again, fitted)
    assert 2 in again.transform(new)["item_id"].explode()


def test_many_buckets_make_the_same_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.etl.events.BUCKET_ROWS", 60)
    config = RunConfig.model_validate({"split": {"rule": "time", "by": "session_id"}, "etl": CONFIG})
    found, expected = both(make_events(4), config, tmp_path)
    assert len(list((found / "train").iterdir())) > 2
    same_datasets(found, expected)


@pytest.mark.parametrize("as_path", [True, False])
def test_a_given_workflow_is_applied(tmp_path, as_path):
    fitted = Workflow(EtlConfig.model_validate(CONFIG)).fit(make_events())
    fitted.save(tmp_path / "workflow")
    given = tmp_path / "workflow" if as_path else fitted
    found, expected = both(make_events(5, unseen=["never"]), RunConfig(), tmp_path, workflow=given)
    same_datasets(found, expected)
    assert json.loads((found / "report.json").read_text())["workflow"] == "given"


def is_pickle(path):
    return path.is_file() and (path.suffix in (".pkl", ".pickle") or path.read_bytes()[:1] == b"\x80")


def test_nothing_is_pickled_into_the_dataset(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("Workflow.save pickles")

    nvt.Workflow.fit_transform(nvt.Workflow(["x"] >> nvt.ops.Categorify(out_path=str(tmp_path))), small()).compute()
    nvt.Workflow(["x"] >> nvt.ops.LambdaOp(abs)).fit(small()).save(str(tmp_path / "theirs"))
    assert any(is_pickle(path) for path in (tmp_path / "theirs").rglob("*"))
    monkeypatch.setattr(nvt.Workflow, "save", refuse)
    made = preprocess_nvtabular(make_events(), RunConfig.model_validate({"etl": CONFIG}), tmp_path / "out")
    files = [path for path in made.path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".parquet", ".pbtxt"}
    assert not any(is_pickle(path) for path in files)


def small():
    import pandas as pd

    return nvt.Dataset(pd.DataFrame({"x": [1, 2, 2]}), cpu=True)


def test_names_that_nvtabular_reads_meaning_into(tmp_path):
    names = ["row", "session_key", "x_count", "a:list", "count", "a b", "sum", "item", "x_mean", "item_id_size"]
    events = make_events(2)
    rng = np.random.default_rng(0)
    events = events.with_columns(pl.Series(name, rng.integers(0, 5, events.height)) for name in names)
    values = {
        "categorical": {"item_id": {}} | {name: {} for name in names[:6]},
        "continuous": {name: {} for name in names[6:]},
    }
    config = EtlConfig.model_validate(values)
    found, expected = NvtabularWorkflow(config, folder=tmp_path, partitions=2).fit(events), Workflow(config).fit(events)
    same_fit(found, expected)
    same_frames(found.transform(events), expected.transform(events))


def test_no_training_events_are_refused_alike(tmp_path):
    config = RunConfig.model_validate(
        {"split": {"rule": "time", "validation_from": "1970-01-02", "test_from": "1971-01-01"}}
    )
    errors = []
    for make in (preprocess, preprocess_nvtabular):
        with pytest.raises(ValueError, match="no training events") as caught:
            make(make_events(), config, tmp_path / "out")
        errors.append(str(caught.value))
    assert errors[0] == errors[1] and not (tmp_path / "out").exists()


def test_workers_below_one_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"workers \(0\) must be at least 1"):
        preprocess_nvtabular(make_events(), None, tmp_path / "out", workers=0)


def test_an_active_client_is_used(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    partitions = []
    stage = NvtabularWorkflow._stage
    monkeypatch.setattr(NvtabularWorkflow, "_stage", lambda *a: partitions.append(len(stage(*a))) or stage(*a))
    local = {"processes": False, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with dask.config.set(scheduler=None), distributed.Client(**local, silence_logs="CRITICAL") as client:
        found, expected = both(make_events(6), RunConfig.model_validate({"etl": CONFIG}), tmp_path)
        tasks = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    same_datasets(found, expected)
    assert set(partitions) == {2}
    assert {"keep", "to_arrow", "global-moments", "categories"} <= set(tasks)


@pytest.mark.slow
def test_two_workers_of_a_cluster_give_the_same(tmp_path):
    config = RunConfig.model_validate({"etl": CONFIG | {"chunk": {"min_items": 3, "max_items": 5}}})
    found, expected = both(make_events(3, sessions=120), config, tmp_path, workers=2)
    same_datasets(found, expected)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"categorical": {"item_id": {}, "tags": {"multi_valued": True}}}, "column 'tags' is multi_valued"),
        ({"categorical": {"item_id": {}, "shop": {}}, "context": ["shop"]}, "column 'shop' is in etl.context"),
    ],
)
def test_columns_of_the_other_engine_alone_are_refused(section, message, tmp_path):
    events = pl.DataFrame({"session_id": ["a"], "item_id": ["x"], "timestamp": [1], "tags": [["u"]], "shop": ["s"]})
    config = RunConfig.model_validate(
        {"etl": {"continuous": {}, **section}, "split": {"rule": "none", "into": "train"}}
    )
    with pytest.raises(ConfigError, match=f"engine 'nvtabular': {message}, .*; use --engine polars"):
        preprocess_nvtabular(events, config, tmp_path / "one")
    preprocess(events, config, tmp_path / "two")
    with pytest.raises(ConfigError, match=message):
        preprocess_nvtabular(events, config, tmp_path / "three", workflow=tmp_path / "two")
