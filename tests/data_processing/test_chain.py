"""One run of all stages: killed at any point it ends with the same bytes, and only what must run again does."""

import json
import os
import shutil
from dataclasses import replace

import polars as pl
import pytest

from data_processing.chain import Settings
from data_processing.run import run
from recsys.buckets import Workers
from recsys.cleaning.fitting import AlignConfig, ServiceConfig
from recsys.config import SplitConfig
from recsys.errors import ConfigError, InputError
from tests.data_processing.small_chain import (
    STAGES,
    Death,
    contents,
    inodes,
    rerun,
    run_apart,
    run_in_parts,
    small_logs,
    small_profile,
)

PROFILE = small_profile()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A log and, in out/, what a run that nothing interrupted makes of it. Not to be written to."""
    folder = tmp_path_factory.mktemp("chain")
    run_in_parts(Settings(small_logs(folder), PROFILE), folder / "out")
    return folder


@pytest.fixture
def out(base, tmp_path):
    """A copy of the finished run."""
    shutil.copytree(base / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def settings(base):
    return Settings(base / "simulated" / "logs", PROFILE)


def test_the_small_run_holds_something_of_everything(base):
    """What the tests below rely on."""
    report = json.loads((base / "out" / "workflows" / "report.json").read_text())
    result, removed = report["result"], {s["stage"]: s["removed"] for s in report["stages"]}
    assert len(list((base / "out" / "filter" / "events").iterdir())) >= 5
    assert result["vocabulary"]["workflows"] >= 5 and result["rare_commands"] >= 5
    assert all(removed[s] for s in ("redundancy", "length", "rare", "repeats after rare"))
    assert [path.name for path in (base / "out").glob(".*")] == []


# Killed.

DEATHS = [
    Death(r"^run\.json$"),
    Death(r"^run\.json$", after=True),
    Death(r"^\.reconstruct\..*/events/part-00002"),
    Death(r"^\.reconstruct\..*/events/part-00004", after=True),
    Death(r"^\.reconstruct\..*/report\.json"),
    Death(r"^reconstruct$"),
    Death(r"^reconstruct$", after=True),
    Death(r"^\.reconstruct\.old\.", after=True),  # the old one is away, the new one not there yet
    Death(r"^\.run\.json\.\d"),  # the state half-written
    Death(r"^\.split\..*/splits\.parquet"),
    Death(r"^split$", after=True),
    Death(r"^\.run\.json\.profile$"),
    Death(r"^\.align\..*/command_dictionary\.csv$"),
    Death(r"^align$", after=True),
    Death(r"^\.redundancy\..*/redundancy\.json"),
    Death(r"^redundancy$", after=True),
    Death(r"^\.filter\..*/events/part-00003"),
    Death(r"^\.filter\..*/all$", after=True),
    Death(r"^\.filter\..*/commands\.parquet"),
    Death(r"^\.filter\..*/cleaning/rules\.json"),
    Death(r"^filter$", after=True),
    Death(r"^\.workflows\..*/events/part-00001", after=True),
    Death(r"^\.workflows\..*/cleaning/workflows\.json"),
    Death(r"^workflows$"),
    Death(r"^workflows$", after=True),
]


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(base, settings):
    expected = contents(base / "out")
    (base / "out").rename(base / "kept")  # reports name OUT, so it has to be the same
    try:
        left = set()
        for death in DEATHS:
            assert run_apart(settings, base / "out", death) == -9, death
            left |= {path.name.split(".")[1] for path in (base / "out").glob(".*")}
        assert left == {*STAGES, "run"}, "each of them has left half-written work for the next to clear"
        assert run_apart(settings, base / "out") == 0
        assert contents(base / "out") == expected
        assert {path.name for path in (base / "out").iterdir()} == {*STAGES, "run.json"}
    finally:
        shutil.rmtree(base / "out")
        (base / "kept").rename(base / "out")


def test_a_run_killed_on_other_settings_does_not_pass_for_the_one_before(out, settings):
    """After the new table is in place and before that is noted, the old settings must not find it finished."""
    before = contents(out)
    stricter = PROFILE.redundancy.model_copy(update={"min_confidence": 1.0})
    changed = replace(settings, profile=small_profile(redundancy=stricter))
    assert run_apart(changed, out, Death("^redundancy$", after=True)) == -9
    assert contents(out / "redundancy") != {n: d for n, d in before.items() if n.startswith("redundancy/")}
    assert rerun(settings, out)[0] == "redundancy"
    after = contents(out)
    assert {n for n in before if before[n] != after[n]} == set()
    assert before.keys() == after.keys()


def test_an_error_in_a_stage_leaves_the_stages_before_and_the_folder_as_it_was(out, settings, tmp_path):
    bad = tmp_path / "overrides.csv"
    bad.write_text("high,low,decision\nTool: Wal (-203),Tool: None (1),drop\n")
    before = contents(out)
    with pytest.raises(InputError, match=r"overrides\.csv: row 1"):
        run(replace(settings, redundancy_overrides=bad), out)
    assert {n: d for n, d in contents(out).items() if n != "run.json"} == {
        n: d for n, d in before.items() if n != "run.json"
    }
    bad.unlink()
    assert rerun(settings, out)[0] == "redundancy"
    assert contents(out) == before


# What runs again.


def test_a_second_run_does_nothing(out, settings):
    before = inodes(out)
    assert rerun(settings, out) == []
    assert inodes(out) == before


def test_who_works_changes_nothing(out, settings):
    assert rerun(replace(settings, workers=Workers("processes", 2)), out) == []


def test_a_threshold_reruns_its_stage_and_what_follows(out, settings):
    redundancy = PROFILE.redundancy.model_copy(update={"min_confidence": 0.95})
    changed = replace(settings, profile=small_profile(redundancy=redundancy))
    assert rerun(changed, out) == ["redundancy", "filter", "workflows"]
    assert rerun(changed, out) == []
    workflows = PROFILE.workflows.model_copy(update={"min_count": 6})
    changed = replace(settings, profile=small_profile(redundancy=redundancy, workflows=workflows))
    assert rerun(changed, out) == ["workflows"]
    fresh = out.parent / "fresh"
    run_in_parts(changed, fresh)
    differ = dict(contents(out).items() ^ contents(fresh).items())
    assert differ.keys() <= {"align/report.json"}, (
        "which names its source; the profile that filter hands on is the same"
    )
    rare = PROFILE.rare.model_copy(update={"min_count": 2})
    assert rerun(replace(settings, profile=small_profile(rare=rare)), out) == ["redundancy", "filter", "workflows"]
    labels = PROFILE.side_information.model_copy(update={"chunks": 2})
    only = replace(settings, profile=small_profile(rare=rare, side_information=labels))
    assert rerun(only, out) == [], "that stage needs --docs"


def test_another_split_reruns_what_was_fitted_but_not_what_names_are(out, settings):
    changed = replace(settings, split=SplitConfig(seed=1))
    assert rerun(changed, out) == ["split", "redundancy", "filter", "workflows"]


def test_what_the_split_takes_for_one_command_counts(out, settings):
    align = PROFILE.align.model_copy(update={"untrusted_ids": ["Tool (3)"]})
    assert rerun(replace(settings, profile=small_profile(align=align)), out)[:2] == ["split", "align"]


def test_rules_of_reading_rerun_all(out, settings):
    assert rerun(replace(settings, profile=small_profile(collapse=False)), out) == STAGES


def test_a_table_edited_by_hand_reruns_what_reads_it(out, settings):
    dictionary = out / "align" / "command_dictionary.csv"
    table = pl.read_csv(dictionary, infer_schema=False)
    own = table.filter(pl.col("label") == pl.col("message"))["message"]
    one, other = own[0], own[1]
    label = pl.when(pl.col("label") == one).then(pl.lit(other)).otherwise("label").alias("label")
    table.with_columns(label).write_csv(dictionary)
    edited = dictionary.read_bytes()
    assert rerun(settings, out) == ["redundancy", "filter", "workflows"]
    assert dictionary.read_bytes() == edited
    items = pl.read_parquet(out / "filter" / "commands.parquet")["item_id"].to_list()
    assert one not in items and other in items

    pairs = out / "redundancy" / "redundancy.csv"
    pairs.write_text(pairs.read_text().replace(",drop,", ",keep,"))
    assert rerun(settings, out) == ["filter", "workflows"]
    stages = json.loads((out / "filter" / "report.json").read_text())["stages"]
    assert [s["removed"] for s in stages if s["stage"] == "redundancy"] == [{}]


def test_an_edited_table_is_never_made_anew(out, settings):
    pairs = out / "redundancy" / "redundancy.csv"
    edited = pairs.read_text().replace(",drop,", ",keep,")
    pairs.write_text(edited)
    assert rerun(settings, out) == ["filter", "workflows"]
    redundancy = PROFILE.redundancy.model_copy(update={"min_confidence": 0.95})
    changed = replace(settings, profile=small_profile(redundancy=redundancy))
    for _ in range(2):
        with pytest.raises(InputError, match=r"redundancy\.csv: was edited.*give your rows as overrides"):
            rerun(changed, out)
        assert pairs.read_text() == edited
    pairs.unlink()
    assert rerun(changed, out) == ["redundancy", "filter", "workflows"]


def test_a_table_that_is_gone_is_made_again(out, settings):
    before = contents(out)
    (out / "redundancy" / "redundancy.csv").unlink()
    shutil.rmtree(out / "workflows")
    # What follows the table finds it as it was.
    assert rerun(settings, out) == ["redundancy", "workflows"]
    after = contents(out)
    assert after == before


def test_a_log_that_grew_reruns_all(out, settings, tmp_path):
    logs = tmp_path / "logs"
    shutil.copytree(settings.logs, logs)
    changed = replace(settings, logs=logs)
    assert rerun(changed, out)[0] == "reconstruct", "copied files are other files"
    assert rerun(changed, out) == []
    first = min(logs.iterdir())
    shutil.copy(first, logs / "part-00009.parquet")
    assert rerun(changed, out)[0] == "reconstruct"
    os.utime(first, ns=(1, 1))
    assert rerun(changed, out)[0] == "reconstruct"


def test_what_is_known_of_commands_beside_the_log_counts(out, settings, tmp_path):
    shutil.copytree(settings.logs, tmp_path / "logs")
    shutil.copy(settings.logs.parent / "commands.parquet", tmp_path / "commands.parquet")
    changed = replace(settings, logs=tmp_path / "logs")
    rerun(changed, out)
    known = pl.read_parquet(tmp_path / "commands.parquet").with_columns(classification=pl.lit("Changed"))
    known.write_parquet(tmp_path / "commands.parquet")
    assert rerun(changed, out)[0] == "reconstruct"
    assert set(pl.read_parquet(out / "workflows" / "commands.parquet")["classification"].drop_nulls()) == {"Changed"}


def test_a_file_that_a_service_reads_counts(out, settings, tmp_path):
    words = tmp_path / "words.csv"
    words.write_text("text,language,translation\nWand,de,Wall\n")
    translator = ServiceConfig(kind="dictionary", path=str(words))
    align = AlignConfig(**{**PROFILE.align.model_dump(), "translator": translator})
    changed = replace(settings, profile=small_profile(align=align))
    assert "align" in rerun(changed, out)
    assert rerun(changed, out) == []
    words.write_text("text,language,translation\nWand,de,Wall\nTür,de,Door\n")
    assert rerun(changed, out)[0] == "align"


def test_overrides_count_by_what_they_say(out, settings, tmp_path):
    first = pl.read_csv(out / "redundancy" / "redundancy.csv", infer_schema=False).filter(pl.col("decision") == "drop")
    overrides = tmp_path / "overrides.csv"
    first.head(1).select("high", "low", decision=pl.lit("keep")).write_csv(overrides)
    changed = replace(settings, redundancy_overrides=overrides)
    assert rerun(changed, out) == ["redundancy", "filter", "workflows"]
    shutil.copy(overrides, tmp_path / "same.csv")
    assert rerun(replace(settings, redundancy_overrides=tmp_path / "same.csv"), out) == []


def test_a_stage_left_out_is_not_applied(out, settings):
    assert rerun(replace(settings, skip=("redundancy",)), out) == ["filter", "workflows"]
    names = [s["stage"] for s in json.loads((out / "filter" / "report.json").read_text())["stages"]]
    assert "align" in names and "redundancy" not in names
    assert rerun(settings, out) == ["filter", "workflows"]


def test_the_last_folder_of_events_is_the_result(tmp_path, settings):
    out = tmp_path / "out"
    assert run(replace(settings, until="split"), out) == out / "reconstruct"
    assert run(replace(settings, until="filter"), out) == out / "filter"
    assert not (out / "workflows").exists()
    assert run(settings, out) == out / "workflows"
    assert run(replace(settings, skip=("workflows",)), out) == out / "filter"


def test_what_an_earlier_run_left_is_named(out, settings):
    lines = []
    run(replace(settings, profile=small_profile(workflows=None), skip=("redundancy",)), out, lines.append)
    left = [line for line in lines if "not of this run" in line]
    assert [line.split()[0] for line in left] == ["redundancy", "workflows"]
    assert left[1].endswith(f"; {out / 'workflows'} is as an earlier run left it")
    assert len(lines) == len(STAGES)


def test_overwrite_runs_all_and_keeps_what_services_answered(out, settings):
    (out / "cache").mkdir()
    (out / "cache" / "services.sqlite").write_bytes(b"paid for")
    before = contents(out)
    assert rerun(settings, out, overwrite=True) == STAGES
    after = contents(out)
    assert after["cache/services.sqlite"] == before["cache/services.sqlite"]
    (out / "run.json").write_text("{")
    assert rerun(settings, out, overwrite=True) == STAGES


# Bad input.


def refused(settings, out, match):
    before = contents(out.parent)
    with pytest.raises((ConfigError, InputError), match=match) as caught:
        run(settings, out)
    assert "\n" not in str(caught.value)
    assert contents(out.parent) == before
    assert not any(path.name.startswith(".") for path in out.parent.iterdir())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"skip": ("filter",)}, "--skip filter: only align, redundancy, workflows, side_information can be left out"),
        ({"until": "workflow"}, "--until workflow: no such stage.*did you mean 'workflows'"),
        ({"docs": "nowhere"}, "nowhere: no such file or folder"),
        ({"dictionary_overrides": "missing.csv"}, "missing.csv: no such file"),
        ({"redundancy_overrides": "missing.csv"}, "missing.csv: no such file"),
        ({"workflows": "missing.json"}, "missing.json: no such file"),
        ({"metadata": "missing.csv"}, "missing.csv: no such file"),
        ({"logs": "nowhere"}, "nowhere: no such file or folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(change, match, settings, tmp_path):
    change = {k: tmp_path / v if isinstance(v, str) and k != "until" else v for k, v in change.items()}
    refused(replace(settings, **change), tmp_path / "out", match)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("section", "flag"),
    [
        ("align", "dictionary_overrides"),
        ("redundancy", "redundancy_overrides"),
        ("workflows", "workflows"),
        ("side_information", "docs"),
        ("side_information", "side_information_overrides"),
    ],
)
def test_what_would_be_of_no_use_is_refused(section, flag, settings, tmp_path):
    given = tmp_path / "given"
    given.write_text("message,label\n")
    change = {"profile": small_profile(**{section: None}), flag: given}
    refused(replace(settings, **change), tmp_path / "out", f"no section '{section}', so --{flag.replace('_', '-')}")


@pytest.mark.parametrize("state", ["{", "[]", "{}", '{"stages": []}', '{"stages": {"split": 1}}', b"\xff"])
def test_a_damaged_state_is_refused(state, out, settings):
    (out / "run.json").write_bytes(state if isinstance(state, bytes) else state.encode())
    refused(settings, out, r"run\.json: .*--overwrite")


def test_a_folder_that_no_run_made_is_refused(settings, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    run(replace(settings, until="reconstruct"), out)  # an empty one will do
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    refused(settings, tmp_path / "other", r"other: has no run\.json, so no earlier run made it")
    with pytest.raises(InputError, match="no earlier run made it"):
        run(settings, tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"
    refused(settings, tmp_path / "other" / "thesis.txt", r"thesis\.txt: ")


@pytest.mark.parametrize("engine", ["loop", "processes"])
def test_a_folder_without_a_log_is_refused(engine, settings, tmp_path):
    (tmp_path / "logs").mkdir()
    changed = replace(settings, logs=tmp_path / "logs", workers=Workers(engine, 2))
    with pytest.raises(InputError, match="logs: no log file in this folder"):
        run(changed, tmp_path / "out")
    assert contents(tmp_path) == {"out/run.json": contents(tmp_path)["out/run.json"]}
