"""All stages against the generator's truth, whoever runs them, on shell logs, on bad input, and up to a served list."""

import json
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

import recsys
from data_processing import align, clean, redundancy, side_information
from data_processing.chain import Settings
from data_processing.reconstruct import reconstruct
from data_processing.run import main, run
from data_processing.simulate import simulate
from recsys.buckets import Workers
from recsys.cleaning.fitting import WorkflowConfig
from recsys.cleaning.profile import Profile, load_profile
from recsys.cleaning.rules import Rules
from recsys.cleaning.workflows import Workflows
from recsys.cli import main as recsys_main
from recsys.config import SplitConfig, save_config
from recsys.inference import load
from recsys.inference.sequences import read_sequences
from tests.data_processing.small_chain import contents, run_in_parts, small_logs, small_profile
from tests.local_ray import ray  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[2]
SECOND = 1_000_000
TINY = [  # a model that is made in a moment
    *("training.max_steps=1", "training.batch_size=8", "model.max_length=24", "model.inputs.fusion_size=32"),
    *("model.backbone.hidden_size=32", "model.backbone.intermediate_size=64"),
]


# Against the truth.


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A log large enough that every planted pair is found."""
    folder = tmp_path_factory.mktemp("run")
    simulate(folder / "s", users=250, sessions_per_user=8, seed=0, file_format="parquet")
    return folder


def reference(truth, planted):
    """What alignment, redundancy, collapse and length make of the truth: {session: [canonical id, ...]}."""
    expected = {}
    for session, rows in truth:
        kept = []
        for (name, time), (following, then) in zip(rows, [*rows[1:], (None, 0)], strict=True):
            goes = following in planted.get(name, ()) and then - time <= 30 * SECOND
            if not goes and (not kept or kept[-1] != name):
                kept.append(name)
        if len(kept) >= 5:
            expected[session] = kept
    return expected


def sessions_of(table, item):
    """(session, [(item, time), ...]) of a table whose sessions are contiguous and in order."""
    groups = table.group_by("session_id", maintain_order=True).agg(item, "timestamp")
    return [(s, list(zip(items, times, strict=True))) for s, items, times in groups.iter_rows()]


def test_aligned_events_are_the_truth(simulated):
    out = run(Settings(simulated / "s" / "logs", load_profile("vectorworks"), until="filter"), simulated / "out")
    truth = pl.read_parquet(simulated / "s" / "truth" / "clean.parquet")
    pairs = json.loads((simulated / "s" / "truth" / "planted_pairs.json").read_text())
    planted = {}
    for pair in pairs:
        planted.setdefault(pair["high"], set()).add(pair["low"])
    expected = reference(sessions_of(truth, "canonical_id"), planted)

    canonical = dict(
        pl.read_parquet(simulated / "s" / "commands.parquet").select("item_id", "canonical_id").iter_rows()
    )
    events = pl.read_parquet(out / "events" / "part-*.parquet")
    found = {s: [canonical[item] for item, _ in rows] for s, rows in sessions_of(events, "item_id")}
    assert found.keys() == expected.keys()
    assert found == expected
    # One name for each command, whatever language the user's program speaks.
    names = events["item_id"].unique().to_list()
    assert len({canonical[name] for name in names}) == len(names) < truth["item_id"].n_unique() / 3
    dropped = next(s for s in json.loads((out / "report.json").read_text())["stages"] if s["stage"] == "redundancy")
    assert len(dropped["removed"]) == len(planted) and sum(dropped["removed"].values()) > 200
    # What merged is counted: every row of a kept session stands for as many rows of the log as before.
    leavers = pl.col("canonical_id").is_in(list(planted))
    kept = truth.filter(pl.col("session_id").is_in(list(expected)))
    others = events.with_columns(pl.col("item_id").replace_strict(canonical).alias("canonical_id")).filter(~leavers)
    assert others["merge_count"].sum() == kept.filter(~leavers)["merge_count"].sum()


def test_what_is_known_of_a_command_is_found_by_its_id(tmp_path):
    names = [f"Tool: Name {n} ({n})" for n in range(1, 5)] + ["Tool: Wand (77)"]
    rows = {"ts": [f"2025-01-01 10:00:0{i}.5" for i in range(5)], "message": names}
    log = pl.DataFrame(rows).with_columns(session_anonymized=pl.lit("s"), cat=pl.lit("Tool"))
    (tmp_path / "logs").mkdir()
    log.write_csv(tmp_path / "logs" / "log.csv")
    known = {
        "item_id": ["Tool: Wall (77)"],
        "classification": ["Create"],
        "target": ["Wall"],
        "description": ["A wall."],
    }
    pl.DataFrame(known).write_csv(tmp_path / "commands.csv")
    out = run(Settings(tmp_path / "logs", load_profile("vectorworks"), until="filter"), tmp_path / "out")
    commands = pl.read_parquet(out / "commands.parquet").filter(pl.col("classification").is_not_null())
    assert commands.select("item_id", "classification").rows() == [("Tool: Wand (77)", "Create")]


# Fitted on training groups only.


def turned(logs, target, users):
    """The log, but with the messages of `users` in reverse, so that other things follow one another."""
    target.mkdir()
    for path in logs.iterdir():
        table = pl.read_parquet(path).with_row_index("at")
        theirs = pl.col("user_anonymized").is_in(users)
        turned = table.filter(theirs).with_columns(pl.col("message", "cat").reverse())
        pl.concat([table.filter(~theirs), turned]).sort("at").drop("at").write_parquet(target / path.name)
    return target


def test_only_training_groups_are_learned_from(tmp_path):
    logs = small_logs(tmp_path, users=20)
    users = sorted(pl.read_parquet(logs / "*.parquet")["user_anonymized"].unique())
    split = SplitConfig(rule="list", test_groups=users[:3], validation_groups=users[3:5], coverage=False)

    def learned(name, source):
        # Without alignment, whose labels are the most frequent names of all groups: it fits no sequence.
        out = run(Settings(source, small_profile(), split, skip=("align",)), tmp_path / name)
        commands = pl.read_parquet(out / "commands.parquet").filter("kept")
        rules = Rules.load(out / "cleaning")
        counts = {item: n for item, n in commands.select("item_id", "count").iter_rows() if n}
        return {
            "pairs": (tmp_path / name / "redundancy" / "redundancy.csv").read_bytes(),
            "workflows": rules.workflows,
            "rare": rules.dropped_commands,
            "counts": counts,
        }, pl.read_parquet(out / "events" / "*.parquet")

    as_it_was, events = learned("as it was", logs)
    assert as_it_was["rare"] and len(as_it_was["workflows"].merges) > 5 and b",drop," in as_it_was["pairs"]
    changed, others = learned("changed", turned(logs, tmp_path / "turned", users[:5]))
    assert not others.equals(events), "the events of test and validation did change"
    train = ~pl.col("user_id").is_in(users[:5])
    assert others.filter(train).equals(events.filter(train))
    assert changed == as_it_was

    differs, _ = learned("training changed", turned(logs, tmp_path / "turned training", users[5:8]))
    assert {name for name in differs if differs[name] != as_it_was[name]} == set(differs)


# Who runs it.


@pytest.fixture(scope="module")
def by_loop(tmp_path_factory):
    """A small log, and what a loop makes of it."""
    folder = tmp_path_factory.mktemp("engines")
    settings = Settings(small_logs(folder), small_profile())
    run_in_parts(settings, folder / "out")
    found = contents(folder / "out")
    shutil.rmtree(folder / "out")
    assert sum(name.startswith("filter/events/") for name in found) >= 5
    return settings, folder / "out", found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_whoever_runs_it_writes_the_same_bytes(engine, by_loop, request):
    if engine == "ray":
        request.getfixturevalue("ray")
    settings, out, expected = by_loop
    try:
        run_in_parts(replace(settings, workers=Workers(engine, 2)), out)
        assert contents(out) == expected
    finally:
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_an_error_in_another_process_is_one_line_and_leaves_nothing(engine, tmp_path, request, capsys):
    request.getfixturevalue("ray")
    logs = small_logs(tmp_path)
    bad = sorted(logs.iterdir())[1]
    pl.read_parquet(bad).with_columns(ts=pl.lit("soon")).write_parquet(bad)
    flags = ["--logs", str(logs), "--out", str(tmp_path / "out"), "--engine", engine, "--workers", "2"]
    assert main(flags) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {bad}: row 1: time 'soon' in column 'ts'; expected") and line.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


@pytest.mark.slow
def test_ray_is_started_where_none_runs(tmp_path, monkeypatch):
    library = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    library.shutdown()
    logs = small_logs(tmp_path)
    monkeypatch.setattr("data_processing.reconstruct.BYTES_A_TASK", 1)  # a task a file
    reconstruct(logs, small_profile(), tmp_path / "raw", workers=Workers("ray", 2))
    assert not library.is_initialized()
    reconstruct(logs, small_profile(), tmp_path / "loop")
    assert contents(tmp_path / "raw") == contents(tmp_path / "loop")


# Shell logs.

SHELL = """session,user,timestamp,cmd_type,hostname,wd,cmd
a,root,2019-08-14T15:40:19.345589Z,bash-command,attacker,/root,nmap 172.18.1.5
a,root,2019-08-14T17:40:20.5+02:00,bash-command,attacker,/root,"  grep -e ""x, y""  log  "
a,root,2019-08-14T15:40:21Z,bash-command,attacker,/root,"echo one
two"
a,root,2019-08-14T15:40:22Z,msf-command,attacker,,ls
a,root,2019-08-14T15:40:23Z,bash-command,,/tmp,ls
a,root,2019-08-14T15:40:24Z,bash-command,attacker,/root,
a,root,2019-08-14T15:40:25Z,bash-command,attacker,/root,"   "
a,root,2019-08-14T15:40:26Z,bash-command,attacker,/root,\t./größe.sh\t--all
b,root,2019-08-14T15:40:19Z,bash-command,attacker,/root,too
b,root,2019-08-14T15:40:20Z,bash-command,attacker,/root,short
"""


def test_a_shell_log_by_hand(tmp_path):
    (tmp_path / "log.csv").write_text(SHELL, encoding="utf-8")
    out = run(Settings(tmp_path / "log.csv", load_profile("shell_cyber"), until="filter"), tmp_path / "out")
    events = pl.read_parquet(out / "events" / "*.parquet")
    assert events.drop("timestamp", "session_id", "merge_count").to_dicts() == [
        dict(zip(("item_id", "cat", "arguments", "hostname", "wd"), row, strict=True))
        for row in (
            ("nmap", "bash-command", "172.18.1.5", "attacker", "/root"),
            ("grep", "bash-command", '-e "x, y"  log', "attacker", "/root"),
            ("echo", "bash-command", "one\ntwo", "attacker", "/root"),
            ("ls", "msf-command", None, "attacker", None),
            ("ls", "bash-command", None, None, "/tmp"),
            ("./größe.sh", "bash-command", "--all", "attacker", "/root"),
        )
    ]
    noon = round(datetime.fromisoformat("2019-08-14T15:40:19+00:00").timestamp() * SECOND)
    times = [0.345589, 1.5, 2, 3, 4, 7]
    assert events["timestamp"].to_list() == [noon + round(t * SECOND) for t in times]
    assert set(events["session_id"]) == {"a"} and set(events["merge_count"]) == {1}
    removed = {s["stage"]: s["removed"] for s in json.loads((out / "report.json").read_text())["stages"]}
    assert removed["read"] == {"no message": 1} and removed["noise"] == {"no command in it": 1}
    assert removed["length"] == {"session of under 5 events": 2}


@pytest.mark.parametrize("name", ["message", "arguments", "merge_count", "split", "constituents"])
def test_a_kept_column_stands_in_for_none_of_cleaning(name):
    values = load_profile("shell_cyber").model_dump(mode="json")
    values["columns"]["keep"] = ["hostname", name]
    with pytest.raises(ValueError, match=f"'{name}' is a column that cleaning writes itself"):
        Profile.model_validate(values)


def test_the_shell_logs_of_the_trainings(shared_data, tmp_path):
    result = clean(shared_data("shell_cyber") / "events.csv.gz", "shell_cyber", tmp_path / "out")
    stages = {s["stage"]: s for s in result.report["stages"]}
    assert (stages["read"]["rows_in"], stages["read"]["removed"]) == (15_209, {"no message": 19})
    assert stages["sessions"]["sessions"] == 200
    events = result.events.collect()
    assert (events.height, events["session_id"].n_unique(), events["item_id"].n_unique()) == (15_182, 198, 684)
    assert events.filter(pl.col("item_id").str.contains(r"\s")).height == 0
    assert result.commands["item_id"][:5].to_list() == ["ls", "cd", "nmap", "set", "ssh"]
    known = events.filter(pl.col("item_id") == "nmap")["arguments"]
    assert known.str.contains("172.18.1.5", literal=True).sum() > 100
    assert set(events["cat"]) == {"bash-command", "msf-command"}


# Bad input, on the command lines.


def refused(entry, flags, out, capsys):
    """The one line of a command that fails and leaves `out` (which must not be there) alone."""
    status = entry([str(flag) for flag in flags])
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    assert not out.exists()
    assert not [path.name for path in out.parent.iterdir() if path.name.startswith(".")]
    return error


def test_bad_input_is_one_line(tmp_path, capsys):
    logs, out = small_logs(tmp_path, users=2), tmp_path / "out"
    save_config(small_profile(side_information=None), tmp_path / "profile.yaml")
    flags = ["--logs", logs, "--out", out, "--profile", tmp_path / "profile.yaml"]
    missing = tmp_path / "missing.csv"
    for more, expected in (
        (["--logs", missing], "missing.csv: no such file or folder"),
        (["--dictionary-overrides", missing], "missing.csv: no such file"),
        (["--docs", tmp_path], "no section 'side_information', so --docs is of no use"),
        (["--profile", "vectorwork"], "did you mean 'vectorworks'"),
        (["--set", "split.sed=1"], "did you mean 'seed'"),
    ):
        assert expected in refused(main, [*flags, *more], out, capsys)
    for more, expected in (
        (["--skip", "filter"], "invalid choice: 'filter'"),
        (["--until", "workflow"], "invalid choice: 'workflow'"),
        (["--engine", "spark"], "invalid choice: 'spark'"),
        (["--workers", "0"], "'0': expected a whole number from 1 on"),
    ):
        with pytest.raises(SystemExit) as left:
            main([str(flag) for flag in (*flags, *more)])
        assert left.value.code == 2 and expected in capsys.readouterr().err
        assert not out.exists()


def test_a_stage_whose_section_is_missing_says_so(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(SHELL, encoding="utf-8")
    run(Settings(tmp_path / "log.csv", load_profile("shell_cyber")), tmp_path / "run")
    raw, splits = tmp_path / "run" / "reconstruct", tmp_path / "run" / "split"
    out = tmp_path / "out"
    for entry, name, more in (
        (align.main, "align", []),
        (redundancy.main, "redundancy", ["--splits", splits]),
        (side_information.main, "side_information", ["--docs", tmp_path]),
    ):
        events = raw if name != "side_information" else tmp_path / "run" / "workflows"
        line = refused(entry, ["--events", events, "--out", out, *more], out, capsys)
        assert f"no section {name}" in line.replace("'", "")


def test_splits_of_other_events_are_refused(tmp_path, capsys):
    from data_processing import filter as filtering

    logs = small_logs(tmp_path, users=4)
    run(Settings(logs, small_profile(), until="split"), tmp_path / "run")
    table = tmp_path / "run" / "split" / "splits.parquet"
    splits = pl.read_parquet(table)
    splits.slice(1).write_parquet(table)
    flags = ["--events", tmp_path / "run" / "reconstruct", "--splits", table.parent, "--out", tmp_path / "out"]
    assert f"group '{splits['group'][0]}' is not in the splits" in refused(
        filtering.main, flags, tmp_path / "out", capsys
    )


def test_the_command_line_runs_and_takes_up(tmp_path, capsys):
    logs, out = small_logs(tmp_path), tmp_path / "out"
    save_config(small_profile(side_information=None), tmp_path / "profile.yaml")
    flags = ["--logs", str(logs), "--out", str(out), "--profile", str(tmp_path / "profile.yaml")]
    assert main([*flags, "--until", "filter"]) == 0
    first = capsys.readouterr().out
    assert "finished before" not in first and f"recsys preprocess --events {out}/filter --out DIR" in first
    assert main([*flags, "--set", "split.seed=0"]) == 0
    then = capsys.readouterr().out
    assert then.count("finished before") == 5 and f"recsys preprocess --events {out}/workflows" in then
    assert main([*flags, "--overwrite"]) == 0
    assert "finished before" not in capsys.readouterr().out


# From raw logs with workflows to served lists.


def test_workflows_go_all_the_way_to_recommendations(tmp_path):
    simulate(tmp_path / "s", users=14, sessions_per_user=3, events_per_session=25, seed=0)
    logs = tmp_path / "s" / "logs"
    profile = small_profile(workflows=WorkflowConfig(merges=20, min_count=4), min_length=5)
    events = clean(logs, profile, tmp_path / "events", workflows=True)
    words = {merge.name for merge in Workflows.load(events.path / "cleaning").vocabulary()}
    composite = events.events.filter(pl.col("constituents").is_not_null()).collect()
    assert words and set(composite["item_id"]) == words
    assert composite["last_timestamp"].dtype == pl.Int64

    config = recsys.load_config(ROOT / "configs" / "vectorworks.yaml", TINY)
    dataset = recsys.preprocess(events.path, config, tmp_path / "dataset")
    items = pl.read_parquet(tmp_path / "dataset" / "workflow" / "items.parquet")
    ids = dict(items.select("item_id", "id").iter_rows())
    assert words <= ids.keys() and min(ids[word] for word in words) >= 3
    trained = recsys.train(dataset.path, config, tmp_path / "run")
    lists = {}
    for source in (logs, events.path):
        flags = ["recommend", "--run", trained.path, "--input", source, "--k", 3, "--out", tmp_path / "lists.parquet"]
        assert recsys_main([str(flag) for flag in flags]) == 0
        lists[source] = pl.read_parquet(tmp_path / "lists.parquet").sort("session_id", "rank")
    # The raw log has further sessions, too short to be kept.
    served = lists[logs].filter(pl.col("session_id").is_in(lists[events.path]["session_id"].unique().implode()))
    names = ["session_id", "rank", "item_id"]
    assert served.select(names).equals(lists[events.path].select(names)) and served.height > 60
    assert served["score"].to_list() == pytest.approx(lists[events.path]["score"].to_list(), abs=1e-5)
    # The model reads workflows, not the commands in them.
    read = read_sequences(load(trained.path, device="cpu"), logs)
    assert {ids[word] for word in words} <= set(read.dataset.columns["item_id"].tolist())
