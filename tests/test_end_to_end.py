"""The main job as README shows it, at a small size: every stage by its own command, then the same in Python."""

import csv
import gzip
import json
import lzma
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import recsys
from data_processing import clean
from recsys.cleaning.profile import RareConfig, load_profile
from recsys.cli import main as recsys_main
from recsys.evaluation import evaluate_events
from tests.readme import README, ROOT, STEPS, blocks, entry_of

RANKERS = ["model", "popularity", "markov1", "markov2", "last_item"]
KS = [1, 3, 5, 10]

# What makes the commands of README small. The choices of configs/vectorworks.yaml stay.
SMALLER = {
    "simulate": ["--users", "14", "--sessions", "3", "--events", "25"],
    "preprocess": ["--set", "etl.newest=20"],  # so that events leave here too
    "train": [
        *("--set", "training.epochs=8", "--set", "training.batch_size=8", "--set", "model.max_length=24"),
        *("--set", "model.inputs.fusion_size=32", "--set", "model.backbone.hidden_size=32"),
        *("--set", "model.backbone.intermediate_size=64"),
    ],
}


# One small run, made by those commands.


@dataclass(frozen=True)
class Job:
    """The folder that stands for README's out/, and what each command printed."""

    out: Path
    printed: dict[str, str]

    def json(self, name: str) -> Any:
        return json.loads((self.out / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Runs README's steps, out/ replaced by a temporary folder, in this process."""
    out = tmp_path_factory.mktemp("job")
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for words in STEPS:
            name, entry, arguments = entry_of(words)
            arguments = [re.sub("^out/", f"{out}/", word) for word in arguments]
            printed[name] = run(entry, [*arguments, *SMALLER.get(name, [])])
    return Job(out, printed)


def run(entry: Callable[[list[str]], int], arguments: list[object]) -> str:
    """Run a command that must succeed; returns its standard output."""
    words = [str(a) for a in arguments]
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("sys.stdout", _Recorder(lines))
        assert entry(words) == 0, shlex.join(words)
    return "".join(lines)


class _Recorder:
    """A standard output that keeps what is written."""

    encoding = "utf-8"

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def write(self, text: str) -> int:
        self.lines.append(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return False


def test_run_directory_is_complete(job: Job) -> None:
    run = job.out / "run"
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "schema.json",
        "model.safetensors",
        "history.json",
        "environment.json",
        "metrics.json",
        "predictions.parquet",
        "report.html",
        "workflow/workflow.json",
        "workflow/items.parquet",
        "workflow/unique.item_id.parquet",
        "cleaning/profile.yaml",
        "cleaning/rules.json",
    } <= files
    assert not [name for name in files if Path(name).name.startswith(".")]
    assert not [name for name in files if name.endswith((".pkl", ".pickle"))]
    assert not [path for path in job.out.iterdir() if path.name.startswith(".")]
    schema = recsys.Schema.load(run / "schema.json")
    assert {"item_id", "classification", "target", "cat", "timestamp_interval", "merge_count"} <= set(schema.names())


def test_every_raw_row_is_in_a_sequence_or_counted_as_removed(job: Job) -> None:
    raw = 0
    for log in (job.out / "simulated" / "logs").iterdir():
        with log.open(newline="", encoding="utf-8") as stream:
            raw += sum(1 for _ in csv.reader(stream)) - 1
    removed, rows = 0, raw
    for stage in job.json("cleaned/filter/report.json")["stages"]:
        assert stage["rows_in"] == rows, stage
        assert all(count > 0 for count in stage["removed"].values()), stage
        assert stage["rows_in"] - sum(stage["removed"].values()) == stage["rows_out"], stage
        removed += sum(stage["removed"].values())
        rows = stage["rows_out"]
    events = pl.read_parquet(job.out / "cleaned" / "filter" / "events" / "part-*.parquet")
    assert events.height == rows

    report = job.json("dataset/report.json")
    assert report["events_in"] == rows
    assert sum(report["dropped"].values()) > 0
    removed += sum(report["dropped"].values())
    kept = 0
    for split in ("train", "val", "test"):
        sequences = pl.read_parquet(job.out / "dataset" / split / "part-*.parquet")
        kept += int(sequences["item_id"].list.len().sum())
        assert sequences.height == report["splits"][split]["sequences"]
    assert removed + kept == raw
    assert 0 < kept < raw


def test_no_user_is_in_two_splits(job: Job) -> None:
    users = [
        set(pl.read_parquet(job.out / "dataset" / split / "part-*.parquet")["user_id"])
        for split in ("train", "val", "test")
    ]
    assert all(users)
    assert sum(map(len, users)) == len(set.union(*users))


def test_loss_fell(job: Job) -> None:
    history = job.json("run/history.json")
    losses = [record["loss"] for record in history["train"]]
    assert len(losses) >= 2
    assert losses[-1] < losses[0]
    assert history["validation"]
    assert history["best_step"] in {record["step"] for record in history["validation"]}
    assert history["label_positions_per_cpu_second"] > 0


@pytest.mark.parametrize("where", ["all", "last"])
def test_metrics_are_those_of_the_predictions(where: str, job: Job) -> None:
    metrics = job.json("run/metrics.json")
    assert list(metrics) == ["protocol", "splits"]
    assert metrics["protocol"]["counts"]["test"]["positions"]["all"] > 20
    figures = metrics["splits"]["test"]["positions"]
    assert list(figures) == ["all", "last"]
    assert list(figures[where]) == RANKERS
    predictions = pl.read_parquet(job.out / "run" / "predictions.parquet")
    if where == "last":
        predictions = predictions.filter("is_last")
    for ranker in RANKERS:
        ranks = predictions[f"rank_{ranker}"].to_list()
        found = figures[where][ranker]
        for k in KS:
            hits = [rank for rank in ranks if 1 <= rank <= k]
            assert found[f"recall@{k}"] == pytest.approx(len(hits) / len(ranks))
            assert found[f"ndcg@{k}"] == pytest.approx(math.fsum(1 / math.log2(r + 1) for r in hits) / len(ranks))
            assert found[f"mrr@{k}"] == pytest.approx(math.fsum(1 / r for r in hits) / len(ranks))
        assert found["mrr"] == pytest.approx(math.fsum(1 / r for r in ranks if r) / len(ranks))
        for metric in ("recall@10", "ndcg@10"):
            low, high = found[f"{metric}_interval"]
            assert 0 <= low <= found[metric] <= high <= 1


def test_every_event_of_a_test_session_but_its_first_is_scored_once(job: Job) -> None:
    sequences = pl.read_parquet(job.out / "dataset" / "test" / "part-*.parquet")
    expected = {
        (session, position): target
        for session, items in sequences.select("session_id", "item_id").iter_rows()
        for position, target in enumerate(items)
        if position >= 1
    }
    predictions = pl.read_parquet(job.out / "run" / "predictions.parquet")
    scored = predictions.select("session_id", "position", "target").rows()
    assert len(scored) == len(expected)
    assert {(session, position): target for session, position, target in scored} == expected


def test_evaluate_printed_a_table_of_the_model_beside_its_baselines(job: Job) -> None:
    lines = job.printed["evaluate"].splitlines()
    for label in ("model", "popularity", "Markov-1", "Markov-2", "last item"):
        assert sum(line.strip().startswith(f"{label}  ") for line in lines) == 2, label
    assert any("Recall@10" in line and "NDCG@10" in line for line in lines)


def events_of(job: Job, split: str | None = None) -> pl.DataFrame:
    """The cleaned events in order, of one split."""
    events = pl.read_parquet(job.out / "cleaned" / "filter" / "events" / "part-*.parquet")
    if split is None:
        return events
    splits = pl.read_parquet(job.out / "cleaned" / "filter" / "splits.parquet")
    groups = splits.filter(pl.col("split") == split)["group"]
    return events.filter(pl.col("user_id").is_in(groups.to_list()))


def recommend(run_directory: Path, source: Path, k: int) -> pl.DataFrame:
    """What `recsys recommend` writes for `source`."""
    out = run_directory.parent / "lists.parquet"
    run(recsys_main, ["recommend", "--run", run_directory, "--input", source, "--k", k, "--out", out])
    lists = pl.read_parquet(out)
    out.unlink()
    return lists


def assert_raw_logs_give_what_events_give(run_directory: Path, logs: Path, events: Path) -> None:
    """The lists of every session that cleaning kept are the same either way; the raw log may hold further ones."""
    from_logs, from_events = recommend(run_directory, logs, k=3), recommend(run_directory, events, k=3)
    kept = pl.read_parquet(events / "events" / "part-*.parquet")["session_id"].unique()
    assert set(from_events["session_id"]) == set(kept)
    assert set(from_logs["session_id"]) >= set(kept)
    order = ["session_id", "rank"]
    common = from_logs.filter(pl.col("session_id").is_in(kept.to_list())).sort(order)
    from_events = from_events.sort(order)
    assert common.select(*order, "item_id").equals(from_events.select(*order, "item_id"))
    for column in ("score", "probability"):
        assert common[column].to_list() == pytest.approx(from_events[column].to_list(), abs=1e-5)
    assert from_events.group_by("session_id").len()["len"].unique().to_list() == [3]
    assert from_events["probability"].is_between(0, 1).all()


def test_recommend_lists_are_those_that_evaluation_ranked(job: Job, tmp_path: Path) -> None:
    # Histories that end where the last position of each test session begins.
    events = events_of(job, "test")
    place, size = pl.int_range(pl.len()).over("session_id"), pl.len().over("session_id")
    histories = events.filter(place < size - 1)
    histories.write_parquet(tmp_path / "histories.parquet")
    lists = recommend(job.out / "run", tmp_path / "histories.parquet", k=10)

    items = pl.read_parquet(job.out / "run" / "workflow" / "items.parquet")
    names = dict(items.select("id", "item_id").iter_rows())
    last = pl.read_parquet(job.out / "run" / "predictions.parquet").filter("is_last")
    assert set(lists["session_id"]) == set(last["session_id"])
    assert last.filter(pl.col("rank_model").is_between(1, 10)).height > 0
    for row in last.iter_rows(named=True):
        listed = lists.filter(pl.col("session_id") == row["session_id"]).sort("rank")["item_id"].to_list()
        assert listed[0] == names[row["top1"]]
        truth = names[row["target"]]
        found = listed.index(truth) + 1 if truth in listed else 0
        assert found == (row["rank_model"] if row["rank_model"] <= 10 else 0)


def test_recommend_gives_the_same_from_the_raw_log_as_from_its_events(job: Job) -> None:
    logs, events = job.out / "simulated" / "logs", job.out / "cleaned" / "filter"
    assert_raw_logs_give_what_events_give(job.out / "run", logs, events)


def test_commands_dropped_as_rare_are_dropped_from_new_logs_too(job: Job, tmp_path: Path) -> None:
    profile = load_profile("vectorworks").model_copy(update={"rare": RareConfig(min_count=6, action="drop")})
    logs = job.out / "simulated" / "logs"
    settings = ["training.max_steps=1", *SMALLER["train"][5::2]]
    config = recsys.load_config(ROOT / "configs" / "vectorworks.yaml", settings)
    events = clean(logs, profile, tmp_path / "events", split=config.split)
    assert json.loads((events.path / "cleaning" / "rules.json").read_text())["dropped_commands"]
    dataset = recsys.preprocess(events.path, config, tmp_path / "dataset")
    trained = recsys.train(dataset.path, config, tmp_path / "run")
    assert_raw_logs_give_what_events_give(trained.path, logs, events.path)


def test_recommend_refuses_raw_logs_that_cannot_be_read(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (job.out / "simulated" / "logs" / "part-00000.csv").read_bytes()
    header, first, *_ = whole.splitlines(keepends=True)
    moment = re.search(rb"2025-[^,]*", first)
    assert moment is not None
    bad = {
        "empty.csv": (b"", "empty"),
        "header.csv": (header, "no rows"),
        "column.csv": (header.replace(b"message", b"text") + first, "column 'message' is missing"),
        "time.csv": (header + first + first.replace(moment[0], b"soon"), "row 2: time 'soon' in column 'ts'; expected"),
        "cut.csv.gz": (gzip.compress(whole)[:-500], "cut off"),
        "cut.csv.xz": (lzma.compress(whole)[:-500], "cut off"),
        "latin.csv": (header + first.replace(b"\n", b"\xfc\n"), "not UTF-8"),
    }
    out = tmp_path / "lists.csv"
    for name, (content, expected) in bad.items():
        log = tmp_path / name
        log.write_bytes(content)
        assert recsys_main(["recommend", "--run", f"{job.out}/run", "--input", str(log), "--out", str(out)]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: {log}: ") and line.count("\n") == 1, line
        assert expected in line
        assert {path.name for path in tmp_path.iterdir()} <= bad.keys()


def test_evaluating_the_test_events_again_gives_the_same_figures(job: Job) -> None:
    again = evaluate_events(job.out / "run", events_of(job, "test"))
    model = again.figures["all"]["model"]
    saved = job.json("run/metrics.json")["splits"]["test"]["positions"]["all"]["model"]
    assert model["recall@10"] == pytest.approx(saved["recall@10"])
    assert model["mrr"] == pytest.approx(saved["mrr"], abs=1e-6)
    # The command does the same with what cleaning wrote.
    command = ["evaluate", "--run", job.out / "run", "--input", job.out / "cleaned" / "filter"]
    positions = f"events: {events_of(job).height - events_of(job)['session_id'].n_unique():,} positions"
    alone = run(recsys_main, command)
    assert positions in alone
    assert "Markov-1" not in alone
    beside = run(recsys_main, [*command, "--data", job.out / "dataset"])
    assert positions in beside
    assert "Markov-1" in beside
    assert job.json("run/metrics.json")["splits"].keys() == {"test"}


def test_recommend_prints_names(job: Job) -> None:
    known = pl.read_parquet(job.out / "run" / "workflow" / "items.parquet")["item_id"].drop_nulls().to_list()
    assert any(name in job.printed["recommend"] for name in known)


def test_report_is_one_file_that_needs_nothing_else(job: Job) -> None:
    page = (job.out / "run" / "report.html").read_text(encoding="utf-8")
    assert str(job.out / "run" / "report.html") in job.printed["report"]
    assert "<svg" in page
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!["'#]|data:)""", page)
    assert not re.search(r"@import|url\((?!['\"]?(?:#|data:))", page)
    for stage in job.json("cleaned/filter/report.json")["stages"]:
        assert f"{stage['rows_out']:,}" in page


# The same in Python.


def in_a_folder(code: str, out: Path) -> str:
    """README's or a docstring's Python with its own out/ and a short training."""
    code = re.sub(r'"out/', f'"{out}/', code)
    return code.replace('["training.epochs=3"]', '["training.max_steps=2"]')


@pytest.mark.parametrize("place", ["README", "docstring"])
def test_python_example_runs(place: str, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "README":
        (code,) = blocks(README, "python")
    else:
        assert recsys.__doc__ is not None
        code = "".join(re.findall(r"^    (.*\n)", recsys.__doc__, flags=re.MULTILINE)).replace(
            'vectorworks.yaml")', 'vectorworks.yaml", ["training.epochs=3"])'
        )
    assert "recsys.train(" in code
    (tmp_path / "simulated").symlink_to(job.out / "simulated")
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(compile(in_a_folder(code, tmp_path), place, "exec"), names)
    written = tmp_path / "python" if place == "README" else tmp_path
    assert {path.name for path in written.iterdir()} - {"simulated"} == {"events", "dataset", "run"}
    assert names["run"].path == written / "run"
    # Cleaning in one call gives what the command gave.
    for file in ("commands.parquet", "splits.parquet"):
        assert pl.read_parquet(written / "events" / file).equals(pl.read_parquet(job.out / "cleaned" / "filter" / file))
    if place == "README":
        assert names["lists"].columns == ["session_id", "rank", "item_id", "score", "probability"]
        assert "<table" in names["evaluation"]._repr_html_()
