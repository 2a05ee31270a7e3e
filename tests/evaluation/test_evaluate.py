"""Figures of a run: recomputed from the predictions, from other events, and at chance level."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.config import EvaluationConfig
from recsys.errors import InputError, SchemaError
from recsys.evaluation import Evaluation, evaluate, evaluate_events
from recsys.inference import LoadedRun, load
from tests.tiny_run import make_config, make_events, make_log_run, make_run, write_log

RANKERS = ["model", "popularity", "markov1", "markov2", "last_item"]


@pytest.fixture(scope="module")
def evaluation(folders: tuple[Path, Path]) -> Evaluation:
    return evaluate(folders[1], folders[0])


def by_hand(ranks: list[int], k: int) -> dict[str, float]:
    hits = [r for r in ranks if 1 <= r <= k]
    return {
        f"recall@{k}": len(hits) / len(ranks),
        f"ndcg@{k}": sum(1 / math.log2(1 + r) for r in hits) / len(ranks),
        f"mrr@{k}": sum(1 / r for r in hits) / len(ranks),
    }


def test_figures_follow_from_the_predictions(folders: tuple[Path, Path], evaluation: Evaluation) -> None:
    saved = json.loads((folders[1] / "metrics.json").read_text())
    predictions = pl.read_parquet(folders[1] / "predictions.parquet")
    assert saved == evaluation.metrics and predictions.equals(evaluation.predictions)
    for where, rows in {"all": predictions, "last": predictions.filter("is_last")}.items():
        figures = saved["splits"]["test"]["positions"][where]
        assert list(figures) == RANKERS
        for name in RANKERS:
            ranks = rows[f"rank_{name}"].to_list()
            for k in (1, 3, 5, 10):
                for metric, value in by_hand(ranks, k).items():
                    assert figures[name][metric] == pytest.approx(value)
                    low, high = figures[name][f"{metric}_interval"]
                    assert low <= value <= high or high - low < 1e-9
            assert figures[name]["mrr"] == pytest.approx(sum(1 / r for r in ranks if r) / len(ranks))
            assert 0 < figures[name]["coverage@10"] <= 1
    tops = set(evaluation.predictions["top1"])
    assert len(tops) > 1 and min(tops) >= 3


def test_predictions_hold_every_position_of_the_split(evaluation: Evaluation, folders: tuple[Path, Path]) -> None:
    events = make_events()
    test = evaluation.predictions["session_id"].unique().to_list()
    mine = events.filter(pl.col("session_id").is_in(test))
    expected = {(s, p) for (s,), part in mine.group_by("session_id") for p in range(1, part.height)}
    pairs = evaluation.predictions.select("session_id", "position").rows()
    assert len(pairs) == len(set(pairs)) and set(pairs) == expected
    names = load(folders[1]).item_names
    truth = {(r["session_id"], r["position"]): names[r["target"]] for r in evaluation.predictions.to_dicts()}
    for (session,), part in mine.group_by("session_id"):
        for position, name in list(enumerate(part["item_id"]))[1:]:
            assert truth[session, position] == name
    users = dict(events.select("session_id", "user_id").rows())
    assert all(users[s] == g for s, g in evaluation.predictions.select("session_id", "group").rows())


def test_protocol_says_what_the_figures_depend_on(evaluation: Evaluation) -> None:
    protocol = evaluation.metrics["protocol"]
    counts = protocol["counts"]["test"]
    predictions = evaluation.predictions
    assert counts["positions"] == {"all": predictions.height, "last": int(predictions["is_last"].sum())}
    assert counts["unknown_targets"] == {"all": 0, "last": 0}
    assert counts["groups"] >= predictions["group"].n_unique()
    assert (protocol["seen"], protocol["max_length"], protocol["groups"]) == ("keep", 6, "user_id")
    assert protocol["split"]["rule"] == "every_nth" and protocol["ks"] == [1, 3, 5, 10]
    assert set(protocol["data_sha256"]) == {"test", "train"}
    assert protocol["versions"]["torch"] and len(protocol["weights_sha256"]) == 64


def test_events_before_scored_from_are_context_only(
    folders: tuple[Path, Path], evaluation: Evaluation, tmp_path: Path
) -> None:
    """A leave-last-1 split: the figures are those of the last positions."""
    data = Path(shutil.copytree(folders[0], tmp_path / "data"))
    for file in (data / "test").glob("*.parquet"):
        last = pl.col("item_id").list.len().cast(pl.Int32) - 1
        pl.read_parquet(file).with_columns(scored_from=last).write_parquet(file)
    found = evaluate(folders[1], data, out=tmp_path / "out")
    assert found.predictions.equals(evaluation.predictions.filter("is_last"))
    assert found.figures["all"] == found.figures["last"] == evaluation.figures["last"]
    plain, told = (e.metrics["protocol"]["positions"] for e in (evaluation, found))
    assert {w: told[w].removeprefix(plain[w]) for w in plain} == dict.fromkeys(
        ("all", "last"), ", of the events from scored_from on"
    )


def test_other_split_and_other_folder_do_not_touch_the_figures_of_test(
    folders: tuple[Path, Path], evaluation: Evaluation, tmp_path: Path
) -> None:
    config = EvaluationConfig(bootstrap_samples=0, seen="remove", ks=[2])
    found = evaluate(folders[1], folders[0], split="train", config=config, baselines=False, out=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["metrics.train.json", "predictions.train.parquet"]
    assert list(found.figures["all"]) == ["model"] and "recall@2_interval" not in found.figures["all"]["model"]
    counts = found.metrics["protocol"]["counts"]["train"]
    assert counts["seen_targets"]["all"] == int((found.predictions["rank_model"] == 0).sum()) > 0
    assert "seen items removed" in str(found)
    assert json.loads((folders[1] / "metrics.json").read_text()) == evaluation.metrics


def test_same_events_given_as_events_have_the_same_figures(
    folders: tuple[Path, Path], evaluation: Evaluation, tmp_path: Path
) -> None:
    sessions = evaluation.predictions["session_id"].unique().to_list()
    events = make_events().filter(pl.col("session_id").is_in(sessions))
    before = {p.name: p.stat().st_mtime_ns for p in folders[1].iterdir()}
    found = evaluate_events(folders[1], events, train=folders[0])
    assert {p.name: p.stat().st_mtime_ns for p in folders[1].iterdir()} == before
    for where in ("all", "last"):
        for name in RANKERS:
            assert found.figures[where][name]["ndcg@10"] == pytest.approx(
                evaluation.figures[where][name]["ndcg@10"], abs=1e-9
            )
    counted = evaluate_events(folders[1], events, out=tmp_path / "other")
    assert list(counted.figures["all"]) == ["model", "popularity", "last_item"]
    for name in ("popularity", "last_item"):
        assert counted.figures["all"][name]["mrr"] == pytest.approx(found.figures["all"][name]["mrr"])
    assert (tmp_path / "other" / "metrics.json").is_file()


def test_baselines_from_counts_take_no_memory_for_the_events(folders: tuple[Path, Path], tmp_path: Path) -> None:
    events = make_events(sessions=6, seed=4)
    copy = Path(shutil.copytree(folders[1], tmp_path / "run"))
    items = pl.read_parquet(copy / "workflow" / "items.parquet")
    items.with_columns(pl.col("count") * 10**12).write_parquet(copy / "workflow" / "items.parquet")
    found, expected = evaluate_events(copy, events), evaluate_events(folders[1], events)
    for name in ("popularity", "last_item"):
        assert found.figures["all"][name]["mrr"] == expected.figures["all"][name]["mrr"] > 0


def test_emptied_sessions_of_a_raw_log_are_counted(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = make_log_run(folders[1], tmp_path / "run", dropped=["command 13"])
    write_log(tmp_path / "log.csv", {"a": ["command 03", "command 04"], "b": ["command 13"] * 3, "c": ["command 13"]})
    found = evaluate_events(copy, tmp_path / "log.csv", out=tmp_path / "out")
    counts = json.loads((tmp_path / "out" / "metrics.json").read_text())["protocol"]["counts"]["events"]
    assert (counts["sessions"], counts["emptied_sessions"]) == (1, 2)
    assert found.metrics["protocol"]["counts"]["events"] == counts
    assert f"{tmp_path / 'log.csv'}: cleaning left no event of 2 sessions" in capsys.readouterr().err


def test_items_that_the_run_does_not_know_are_context_and_misses(run: LoadedRun) -> None:
    events = make_events(sessions=12, seed=9).with_columns(
        item_id=pl.when(pl.col("item_id") == "command 02").then(pl.lit("brand new")).otherwise("item_id")
    )
    found = evaluate_events(run, events)
    later = events.filter(pl.int_range(pl.len()).over("session_id") >= 1)
    unknown = int((later["item_id"] == "brand new").sum())
    counts = found.metrics["protocol"]["counts"]["events"]
    assert counts["positions"]["all"] == later.height and counts["unknown_targets"]["all"] == unknown > 0
    assert int((found.predictions["rank_model"] == 0).sum()) == unknown
    without_users = evaluate_events(run, events.drop("user_id"))
    assert without_users.metrics["protocol"]["groups"] == "session_id"
    assert without_users.predictions["group"].equals(found.predictions["session_id"].alias("group"))


def test_random_targets_are_found_at_chance(tmp_path: Path) -> None:
    events = make_events(sessions=300, items=20, seed=4)
    data, run = make_run(tmp_path, events, make_config())
    figures = evaluate(run, data, config=EvaluationConfig(bootstrap_samples=0)).figures["all"]
    positions = pl.read_parquet(run / "predictions.parquet").height
    for k in (1, 5, 10):
        spread = math.sqrt(k / 20 * (1 - k / 20) / positions)
        assert abs(figures["model"][f"recall@{k}"] - k / 20) < 5 * spread
        for name in RANKERS[1:]:  # counts are often equal, and ties cost them: only above chance is impossible
            assert figures[name][f"recall@{k}"] < k / 20 + 5 * spread


def test_figures_repeat(folders: tuple[Path, Path], evaluation: Evaluation, tmp_path: Path) -> None:
    again = evaluate(folders[1], folders[0], out=tmp_path)
    assert again.metrics == evaluation.metrics and again.predictions.equals(evaluation.predictions)


def test_data_of_another_workflow_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_run(tmp_path, make_events(items=9))[0]
    with pytest.raises(SchemaError, match=r"dataset: column 'item_id' has 12 classes.*RUN/workflow"):
        evaluate(folders[1], other)
    with pytest.raises(InputError, match="no split 'nowhere'"):
        evaluate(folders[1], folders[0], split="nowhere")


def test_nothing_to_score_is_an_error(run: LoadedRun) -> None:
    single = make_events(sessions=5).unique("session_id")
    with pytest.raises(InputError, match="nothing to score"):
        evaluate_events(run, single)


def test_failed_evaluation_writes_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    loaded = load(shutil.copytree(folders[1], tmp_path / "run"), device="cpu")
    (loaded.path / "metrics.json").unlink(missing_ok=True)
    (loaded.path / "predictions.parquet").unlink(missing_ok=True)
    before = sorted(p.name for p in loaded.path.iterdir())
    with torch.no_grad():
        loaded.model.inputs.output.bias[0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        evaluate(loaded, folders[0])
    assert sorted(p.name for p in loaded.path.iterdir()) == before
