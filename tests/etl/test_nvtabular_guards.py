"""What NVTabular 23.8 gets wrong by itself, a test a guard: each shows the fault, then that our graph is free of it."""

import subprocess
import sys
import warnings

import numpy as np
import polars as pl
import pytest

from recsys.config import EtlConfig
from recsys.etl.nvtabular_engine import NvtabularWorkflow
from recsys.etl.nvtabular_graph import guard, load_nvtabular, our_ids
from recsys.etl.workflow import Workflow

dask = pytest.importorskip("dask", reason="scripts/setup.sh nvtabular installs it")
nvt = load_nvtabular()  # before dask.dataframe is imported
dd = pytest.importorskip("dask.dataframe")
pd = pytest.importorskip("pandas")


def encode(frame, folder, parts=1, vocabulary=None):
    """What Categorify makes of `item`, and the operator."""
    given = None if vocabulary is None else {"item": pd.Series(vocabulary, dtype=object)}
    operator = nvt.ops.Categorify(out_path=str(folder), vocabs=given)
    workflow = nvt.Workflow(["item"] >> operator)
    rows = nvt.Dataset(dd.from_pandas(frame, npartitions=parts, sort=False))
    with warnings.catch_warnings(), dask.config.set(scheduler="synchronous"):
        warnings.simplefilter("ignore")
        workflow.fit(rows)
        return workflow.transform(rows).to_ddf().compute()["item"].tolist(), operator


def ours(values, tmp_path, partitions=1, config=None, **columns):
    """Sequences of one session by the NVTabular engine and by the Polars engine."""
    size = len(next(iter(columns.values()), values))
    values = ["a"] * size if values is None else values
    frame = pl.DataFrame({"session_id": ["s"] * size, "item_id": values, "timestamp": range(size), **columns})
    config = config or EtlConfig()
    made = NvtabularWorkflow(config, folder=tmp_path, partitions=partitions)
    with dask.config.set(scheduler="synchronous"):
        sequences = made.fit_transform(frame)
    reference = Workflow(config)
    return sequences, reference.fit_transform(frame), made, reference


VALUES = ["a", None, "b", "a", "", None, "b", "a"]


def test_null_labels_are_taken_for_positions(tmp_path):
    whole = pd.DataFrame({"item": VALUES})
    right, _ = encode(whole, tmp_path / "a")
    assert [right[1], right[5]] == [1, 1]
    wrong, _ = encode(whole.set_index(pd.Index(range(7, -1, -1))), tmp_path / "b")
    assert wrong != right and wrong[1] != 1  # a null has become a value, and a value null, without a word
    with pytest.raises(RuntimeError, match="encode column item"):
        encode(whole, tmp_path / "c", parts=2)
    sequences, reference, *_ = ours(VALUES, tmp_path, partitions=3)
    assert sequences["item_id"].to_list() == reference["item_id"].to_list()


def test_guard_marks_and_counts_anew():
    frame = pd.DataFrame({"number": [5, 9, 5, 2], "item": [None, "", "=x", "b"]}, index=[9, 9, 4, 2])
    made = guard(frame, ["item"])
    assert made.index.tolist() == [0, 1, 2, 3]
    assert made["number"].tolist() == [5, 9, 5, 2]
    assert made["item"].tolist() == ["", "=", "==x", "=b"]


@pytest.mark.parametrize("vocabulary", [None, ["a"]])
def test_rows_that_are_all_null_fail(tmp_path, vocabulary):
    with pytest.raises(RuntimeError, match="encode column item"):
        encode(pd.DataFrame({"item": [None, None]}), tmp_path / "theirs", vocabulary=vocabulary)
    config = EtlConfig(categorical={"item_id": {}, "cat": {}})
    sequences, reference, *_ = ours(["a", "b"], tmp_path, config=config, cat=pl.Series([None, None], dtype=pl.String))
    assert sequences["cat"].to_list() == reference["cat"].to_list() == [[1, 1]]


def test_an_empty_vocabulary_has_no_file(tmp_path):
    with pytest.raises((FileNotFoundError, RuntimeError)):
        encode(pd.DataFrame({"item": ["a"]}), tmp_path / "theirs", vocabulary=[])
    config = EtlConfig(categorical={"item_id": {"min_count": 9}})
    sequences, *_ = ours(["a", None, "b"], tmp_path, config=config)
    assert sequences["item_id"].to_list() == [[2, 1, 2]]


def test_an_empty_partition_fails(tmp_path):
    with pytest.raises(RuntimeError, match="encode column item"):
        encode(pd.DataFrame({"item": pd.Series([], dtype=object)}), tmp_path / "theirs", vocabulary=["a"])
    sequences, reference, *_ = ours(["a", "b", "a"], tmp_path, partitions=3)  # one session: two of three are empty
    assert sequences["item_id"].to_list() == reference["item_id"].to_list()


def test_equal_counts_have_no_order(tmp_path):
    rng = np.random.default_rng(0)
    values = [f"v{n:03d}" for n in rng.permutation(300) for _ in range(n % 3 + 1)]
    _, operator = encode(pd.DataFrame({"item": values}), tmp_path / "theirs")
    theirs = pl.read_parquet(operator.categories["item"]).filter(pl.col("item_size") == 3)["item"].to_list()
    right = [f"v{n:03d}" for n in range(2, 300, 3)]
    assert sorted(theirs) == right and theirs != right
    *_, made, _ = ours(values, tmp_path)
    assert made.vocabulary("item_id").values.to_list()[:100] == right


def test_two_graphs_in_one_folder_share_a_table(tmp_path):
    rows = nvt.Dataset(dd.from_pandas(pd.DataFrame({"item": ["a", "b"]}), npartitions=1))
    vocabularies = [pd.Series(values, dtype=object) for values in (["a", "b"], ["b", "a"])]
    with dask.config.set(scheduler="synchronous"):
        operators = [nvt.ops.Categorify(out_path=str(tmp_path), vocabs={"item": given}) for given in vocabularies]
        workflows = [nvt.Workflow(["item"] >> operator) for operator in operators]
        for workflow in workflows:
            workflow.fit(rows)
        found = [workflow.transform(rows).to_ddf().compute()["item"].tolist() for workflow in workflows]
    assert found == [[4, 3], [4, 3]]  # the first should be [3, 4]: every graph of ours has a folder of its own


def test_list_columns_become_strings():
    frame = pd.DataFrame({"x": [[1, 2], [3]]})
    with dask.config.set({"dataframe.convert-string": True}):
        assert isinstance(dd.from_pandas(frame, npartitions=1).compute()["x"].iloc[0], str)
    load_nvtabular()
    assert dask.config.get("dataframe.convert-string") is False
    assert dd.from_pandas(frame, npartitions=1).compute()["x"].iloc[0] == [1, 2]


def normalize(values):
    """Normalize's own mean and deviation."""
    operator = nvt.ops.Normalize()
    workflow = nvt.Workflow(["x"] >> operator)
    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        workflow.fit(nvt.Dataset(dd.from_pandas(pd.DataFrame({"x": values}), npartitions=1)))
    return operator.means["x"], operator.stds["x"]


@pytest.mark.parametrize("values", [[1e9, 1e9 + 1, 1e9 + 2, 1e9 + 7], [1.0, 2.0, 4.0], [0.1] * 7], ids=str)
def test_statistics_cancel_and_are_the_samples(tmp_path, values):
    _, theirs = normalize(values)
    truth = np.std(np.array(values) - values[0])
    assert not np.isclose(theirs, truth, rtol=1e-6, atol=0) or truth == theirs == 0
    config = EtlConfig(continuous={"x": {"transforms": ["zscore"]}})
    sequences, reference, made, _ = ours(None, tmp_path, config=config, x=values)
    assert made.fitted.scalings["x"].std == pytest.approx(truth, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(sequences["x"].to_list(), reference["x"].to_list(), atol=1e-4)


def test_infinity_poisons_the_statistics(tmp_path):
    values = [1.0, float("inf"), 3.0, None]
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(normalize(values)).all()
    config = EtlConfig(continuous={"x": {"transforms": ["zscore"]}})
    sequences, *_ = ours(None, tmp_path, config=config, x=values)
    np.testing.assert_allclose(sequences["x"].to_list(), [[-1, 0, 1, 0]])


def test_logarithm_and_lag_are_float32(tmp_path):
    column = pd.DataFrame({"x": [1e-9, 2e-9, 3e-9]})
    assert nvt.ops.LogOp().transform(nvt.ColumnSelector(["x"]), column.copy())["x"].tolist() == [0, 0, 0]
    lag = nvt.ops.DifferenceLag("k").transform(
        nvt.ColumnSelector(["x"]), pd.DataFrame({"k": [1, 1], "x": [0, 2**24 + 1]})
    )
    assert lag["x_difference_lag_1"].tolist()[1] == 2**24
    config = EtlConfig(continuous={"x": {"transforms": ["log1p", "zscore"]}})
    sequences, *_ = ours(None, tmp_path, config=config, x=column["x"].tolist())
    np.testing.assert_allclose(sequences["x"].to_list(), [[-np.sqrt(1.5), 0, np.sqrt(1.5)]], atol=1e-6)


def group(frame, parts=1, **settings):
    graph = list(frame.columns) >> nvt.ops.Groupby(**settings)
    rows = nvt.Dataset(dd.from_pandas(frame, npartitions=parts, sort=False))
    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nvt.Workflow(graph).fit_transform(rows).to_ddf().compute()


def test_groupby_tears_sessions_apart_and_orders_equal_times_at_random():
    frame = pd.DataFrame({"key": [1] * 40, "time": [0, 1] * 20, "x": range(40)})
    torn = group(frame, 2, groupby_cols=["key"], sort_cols=["time"], aggs={"x": ["list"]})
    assert len(torn) == 2
    whole = group(frame, groupby_cols=["key"], sort_cols=["time"], aggs={"x": ["list"]})
    stable = [*range(0, 40, 2), *range(1, 40, 2)]
    assert sorted(whole["x_list"].iloc[0]) == sorted(stable) and whole["x_list"].iloc[0] != stable


def test_equal_times_keep_their_order_over_torn_sessions(tmp_path):
    values = [f"v{n}" for n in range(40)]
    frame = pl.DataFrame({"session_id": ["s"] * 40, "item_id": values, "timestamp": [0, 1] * 20})
    made = NvtabularWorkflow(EtlConfig(), folder=tmp_path, partitions=4)
    with dask.config.set(scheduler="synchronous"):
        ids = made.fit_transform(frame)["item_id"].to_list()[0]
    names = made.vocabulary("item_id").decode()
    assert [names[n] for n in ids] == values[::2] + values[1::2]


def test_groupby_casts_keys_by_their_names():
    frame = pd.DataFrame({"my_count": [2**40], "x": [1]})
    assert group(frame, groupby_cols=["my_count"], aggs={"x": ["list"]})["my_count"].iloc[0] != 2**40


def test_ids_of_null_first_vocabularies_become_ours():
    assert our_ids(pd.Series([2, 3, 4, 5])).tolist() == [2, 1, 3, 4]


def test_torch_is_not_imported():
    code = "import sys; from recsys.etl.nvtabular_graph import load_nvtabular as l; l(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
