"""Measures against a plain count, the generator's planted pairs, decisions and what a person overrides."""

import json
import math
import random
import shutil
from collections import Counter

import polars as pl
import pytest

from data_processing.reconstruct import reconstruct
from data_processing.redundancy import main, mine_redundancy
from data_processing.simulate import NoiseConfig, simulate
from data_processing.split import split_groups
from recsys.cleaning.fitting import RedundancyConfig
from recsys.cleaning.profile import load_profile
from recsys.cleaning.redundancy import Redundancy, RedundantPair, redundancy_reasons
from recsys.config import save_config
from recsys.errors import ConfigError, InputError
from recsys.etl.split import SplitResult, load_splits


def profile(**settings):
    return load_profile("vectorworks").model_copy(update={"redundancy": RedundancyConfig(**settings)})


class Labels:
    """Stands for the command dictionary."""

    def __init__(self, labels):
        self.labels = labels

    def apply(self, events):
        return events.with_columns(pl.col("item_id").replace(self.labels))


def folder(path, sessions, parts=1, **settings):
    """Events folder of {session: [(command, second), ...]}."""
    (path / "events").mkdir(parents=True)
    (path / "cleaning").mkdir()
    save_config(profile(**settings), path / "cleaning" / "profile.yaml")
    names = list(sessions)
    for number in range(parts):
        rows = [
            (name, item, round(second * 1e6))
            for name in names[number * len(names) // parts : (number + 1) * len(names) // parts]
            for item, second in sessions[name]
        ]
        schema = {"session_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
        table = pl.DataFrame(rows, schema=schema, orient="row").with_columns(merge_count=pl.lit(1, pl.Int64))
        table.write_parquet(path / "events" / f"part-{number:05}.parquet")
    return path


def all_train(sessions, test=()):
    assignment = pl.DataFrame(
        [(name, "test" if name in test else "train") for name in sorted(sessions)],
        schema={"group": pl.String, "split": pl.String},
        orient="row",
    )
    return SplitResult(assignment, {"by": "session_id"})


def mine(path, sessions, out, *, test=(), parts=1, dictionary=None, overrides=None, **settings):
    folder(path, sessions, parts, **settings)
    given = {"dictionary": dictionary, "overrides": overrides}
    summary = mine_redundancy(path, all_train(sessions, test), profile(**settings), out, **given)
    return pl.read_csv(out / "redundancy.csv", infer_schema_length=None), summary


def decisions(table):
    return {(r["high"], r["low"]): (r["decision"], r["source"]) for r in table.to_dicts()}


def together(*pairs, times=10, gap=0.05):
    """A session in which each pair comes `times` times, at once, among other things."""
    events, second = [], 0.0
    for n in range(times):
        for high, low in pairs:
            events += [(high, second), (low, second + gap), (f"other {n % 7}", second + 20)]
            second += 40
    return events


def random_sessions(seed, count=12):
    rng = random.Random(seed)
    sessions = {}
    for number in range(count):
        second, events = 0.0, []
        for _ in range(rng.randint(1, 40)):
            second += rng.choice([0, 0.1, 1, 3])
            events.append((rng.choice("AABBCDE"), second))
        sessions[f"s{number:02}"] = events
    return sessions


@pytest.mark.parametrize(("rows", "seconds"), [(1, 30), (3, 2), (4, 100)])
def test_measures_are_those_of_a_plain_count(tmp_path, rows, seconds):
    sessions = random_sessions(rows)
    settings = {"rows": rows, "seconds": seconds, "show_confidence": 0.0, "at_once": 0.5, "min_count": 1}
    table, summary = mine(tmp_path / "e", sessions, tmp_path / "o", test=("s03", "s07"), **settings)
    windows, highs, holding, pairs, fast = 0, Counter(), Counter(), Counter(), Counter()
    for name, events in sessions.items():
        if name in ("s03", "s07"):
            continue
        for at, (item, second) in enumerate(events):
            window = {}
            for other, when in events[at + 1 : at + 1 + rows]:
                if when - second <= seconds + 1e-9:
                    window.setdefault(other, when - second)
            windows += 1
            highs[item] += 1
            holding.update(window.keys())
            pairs.update((item, other) for other in window)
            fast.update((item, other) for other, gap in window.items() if gap <= 0.5)
    assert summary["events"] == windows
    found = {(r["high"], r["low"]): r for r in table.to_dicts()}
    assert set(found) == {(a, b) for a, b in pairs if a != b}
    for (high, low), row in found.items():
        confidence = pairs[high, low] / highs[high]
        assert (row["count_high"], row["count_low"], row["count_pair"]) == (highs[high], highs[low], pairs[high, low])
        assert row["support"] == pytest.approx(pairs[high, low] / windows, abs=1e-6)
        assert row["confidence"] == pytest.approx(confidence, abs=1e-6)
        assert row["lift"] == pytest.approx(confidence / (holding[low] / windows), abs=1e-6)
        assert row["share_at_once"] == pytest.approx(fast[high, low] / pairs[high, low], abs=1e-6)
        # Wilson's lower end solves (p - share)^2 = z^2 p (1 - p) / n.
        p, n = row["confidence_low"], highs[high]
        assert abs(p - confidence) == pytest.approx(1.6449 * math.sqrt(p * (1 - p) / n), abs=1e-4)
        session, day, time = row["example"].split(" ")
        assert session not in ("s03", "s07") and day == "1970-01-01"
        begins = sum(x * float(y) for x, y in zip((3600, 60, 1), time.split(":"), strict=True))
        assert any(i == high and s == pytest.approx(begins) for i, s in sessions[session])
    order = [(-r["confidence"], -r["lift"], r["high"], r["low"]) for r in table.to_dicts()]
    assert order == sorted(order)


def test_parts_do_not_matter(tmp_path):
    sessions = random_sessions(5) | {f"t{i}": together(("H", "L"), times=3) for i in range(4)}
    for parts in (1, 3, 16):
        mine(tmp_path / f"e{parts}", sessions, tmp_path / f"o{parts}", parts=parts, test=("t1",), rows=2)
    first = (tmp_path / "o1" / "redundancy.csv").read_bytes()
    assert b"H,L" in first
    for parts in (3, 16):
        assert (tmp_path / f"o{parts}" / "redundancy.csv").read_bytes() == first
        assert (tmp_path / f"o{parts}" / "redundancy.json").read_bytes() == (
            tmp_path / "o1" / "redundancy.json"
        ).read_bytes()


def simulated(path, users, seed, jitter=0.0, **noise):
    """(found, planted and frequent enough, planted) of a simulation."""
    simulate(path / "s", users, seed=seed, file_format="parquet", noise=NoiseConfig(**noise))
    reconstruct(path / "s" / "logs", profile(), path / "r")
    if jitter:
        rng = random.Random(seed)
        for part in (path / "r" / "events").glob("*.parquet"):
            table = pl.read_parquet(part)
            late = pl.Series([rng.randrange(round(jitter * 1e6)) for _ in range(table.height)])
            # Rows keep the order in which they were written, as a log's do.
            table = table.with_columns(timestamp=pl.col("timestamp") + late)
            table.with_columns(pl.col("timestamp").cum_max().over("session_id")).write_parquet(part)
    commands = pl.read_parquet(path / "s" / "commands.parquet").unique("item_id")
    labels = Labels(dict(commands.select("item_id", "canonical_id").iter_rows()))
    splits = split_groups(path / "r")
    mine_redundancy(path / "r", splits, profile(), path / "o", dictionary=labels)
    train = splits.assignment.filter(pl.col("split") == "train")["group"].to_list()
    events = labels.apply(pl.read_parquet(path / "r" / "events" / "*.parquet"))
    counts = Counter(events.filter(pl.col(splits.report["by"]).cast(pl.String).is_in(train))["item_id"].to_list())
    truth = json.loads((path / "s" / "truth" / "planted_pairs.json").read_text())
    planted = {(pair["high"], pair["low"]) for pair in truth}
    rules = Redundancy.load(path / "o" / "redundancy.csv", RedundancyConfig())
    found = {(pair.high, pair.low) for pair in rules.pairs}
    # What the rules drop: every high-level event that was planted with its low-level one, and nothing else.
    dropped = events.filter(redundancy_reasons(events, "session_id", rules).is_not_null())["item_id"].unique()
    assert set(dropped) == {high for high, _ in found}
    return found, {pair for pair in planted if counts[pair[0]] >= RedundancyConfig().min_count}, planted


@pytest.mark.parametrize("seed", [0])
def test_planted_pairs_are_found_at_the_default_size_and_noise(tmp_path, seed):
    found, _, planted = simulated(tmp_path, 300, seed)
    assert found == planted and len(planted) == 9


@pytest.mark.parametrize(("users", "seed"), [(40, 6), (100, 3)])
def test_planted_pairs_are_found_from_five_events_on(tmp_path, users, seed):
    found, frequent, _ = simulated(tmp_path, users, seed)
    assert found == frequent and frequent


def test_planted_pairs_are_found_with_twice_the_noise(tmp_path):
    noise = {"undo_rate": 0.12, "repeat_rate": 0.2, "interruption_rate": 0.24, "clutter_rate": 0.4, "view_rate": 0.5}
    found, _, planted = simulated(tmp_path, 300, 1, chatter_rate=0.06, **noise)
    assert found == planted


def test_planted_pairs_are_found_with_a_shaky_clock(tmp_path):
    found, frequent, _ = simulated(tmp_path, 100, 2, jitter=0.1)
    assert found == frequent and frequent


def test_a_habit_is_not_redundant(tmp_path):
    """Always, in the same order, but at a person's pace."""
    sessions = {"s": together(("Tool: Wall", "End Event: Create Wall"), gap=2.0) + [("Z", 9999.0)] * 30}
    table, summary = mine(tmp_path / "e", sessions, tmp_path / "o")
    row = table.row(by_predicate=pl.col("high") == "Tool: Wall", named=True)
    assert row["confidence"] == 1.0 and row["decision"] == "keep"
    assert row["why"] == "share at once (lower bound) 0 under 0.1"
    assert summary["dropped"] == 0
    one = {"s": [(item, 2.0 * second) for second, (item, _) in enumerate(together(("H", "L")))]}
    assert mine(tmp_path / "e2", one, tmp_path / "o2")[1]["whole_seconds"] is True


def test_training_groups_only_and_labels_first(tmp_path):
    sessions = {"a": together(("H", "L"), ("K", "M")), "b": together(("K", "x"), times=20)}
    labels = Labels({"M": "L"})
    table, _ = mine(tmp_path / "e", sessions, tmp_path / "o", test=("b",), dictionary=labels)
    assert decisions(table)["H", "L"] == decisions(table)["K", "L"] == ("drop", "threshold")
    table, _ = mine(tmp_path / "e2", sessions, tmp_path / "o2", dictionary=labels)
    assert ("K", "L") not in decisions(table), "a third of the windows hold it, which is not even shown"
    assert decisions(table)["K", "x"] == ("keep", "threshold")


def test_a_circle_keeps_its_strongest(tmp_path):
    sessions = {"s": [(item, 0.1 * i + 60 * (i // 3)) for i, item in enumerate("ABC" * 20)] + [("Z", 9e3)] * 90}
    sessions["t"] = [("A", 0.0), ("B", 0.1), ("Z", 100.0)]  # so that C -> A and B -> C are not alike
    table, _ = mine(tmp_path / "e", sessions, tmp_path / "o", at_once=70, seconds=90, min_confidence=0.8)
    found = decisions(table)
    assert found["A", "B"] == ("drop", "threshold")
    assert found["B", "C"] == ("drop", "threshold") and found["C", "A"] == ("keep", "cycle"), "20 of 21, 19 of 20"
    events = pl.read_parquet(tmp_path / "e" / "events" / "*.parquet")
    reasons = redundancy_reasons(
        events, "session_id", Redundancy.load(tmp_path / "o/redundancy.csv", RedundancyConfig())
    )
    assert reasons.is_null().sum() > 90 + 20


def test_exclusions_prefixes_and_direction(tmp_path):
    sessions = {"s": together(("Menu: H", "L"), ("Menu: K", "M"), ("Event: I", "N"))}
    table, summary = mine(tmp_path / "e", sessions, tmp_path / "o", exclude=["M", "gone"], high=["Menu:"], drop="low")
    found = decisions(table)
    assert found["Menu: H", "L"] == ("drop", "threshold")
    assert found["Menu: K", "M"] == found["Event: I", "N"] == ("keep", "excluded")
    assert summary["notes"] == ["redundancy.exclude of the profile: no event of 'gone'"]
    rules = Redundancy.load(tmp_path / "o" / "redundancy.csv", RedundancyConfig())
    assert rules.pairs == [RedundantPair(high="Menu: H", low="L", drop="low")]


def test_overrides_win(tmp_path):
    sessions = {"s": together(("H", "L"), ("K", "M")), "t": [("far", 0.0), ("L", 50.0)]}
    wanted = tmp_path / "w.csv"
    wanted.write_text("high,low,decision,leaves\nH,L,keep,\nfar,K,drop,low\nL,H,drop,high\n")
    table, summary = mine(tmp_path / "e", sessions, tmp_path / "o", overrides=wanted)
    found = decisions(table)
    assert found["H", "L"] == ("keep", "override") and found["K", "M"] == ("drop", "threshold")
    assert found["far", "K"] == ("drop", "override"), "a pair that never occurred"
    row = table.row(by_predicate=pl.col("high") == "far", named=True)
    assert (row["count_high"], row["count_pair"], row["lift"], row["leaves"]) == (1, 0, 0.0, "low")
    assert summary["overrides"] == 3
    rules = Redundancy.load(tmp_path / "o" / "redundancy.csv", RedundancyConfig())
    assert [(p.high, p.low, p.drop) for p in rules.pairs] == [
        ("K", "M", "high"), ("L", "H", "high"), ("far", "K", "low"),
    ]  # fmt: skip


def test_an_override_beats_what_would_close_a_circle_with_it(tmp_path):
    wanted = tmp_path / "w.csv"
    wanted.write_text("high,low,decision\nL,H,drop\n")
    table, _ = mine(tmp_path / "e", {"s": together(("H", "L"))}, tmp_path / "o", overrides=wanted)
    assert decisions(table)["H", "L"] == ("keep", "cycle") and decisions(table)["L", "H"] == ("drop", "override")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "high,low,decision\nH,L,drop\nothr 1,L,drop\n",
            r"row 2: column high: no event of 'othr 1' \(did you mean 'other",
        ),
        ("high,low,decision\nH,qqqqq,keep\n", "row 1: column low: no event of 'qqqqq'$"),
        ("high,low,decision\nH,L,drop\nH,L,keep\n", "row 2: .* in row 1"),
        ("high,low,decision\nH,L,drop\nL,H,drop\n", "row 2: 'L' would leave because of 'H'"),
    ],
)
def test_bad_overrides(tmp_path, text, message):
    wanted = tmp_path / "w.csv"
    wanted.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        mine(tmp_path / "e", {"s": together(("H", "L"))}, tmp_path / "o", overrides=wanted)
    assert str(wanted) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "o").exists()


def test_splits_of_other_events_are_refused(tmp_path):
    """Before, nothing was a training group, so nothing was found, and no line said so."""
    sessions = {"s1": [("A", 0.0), ("B", 0.05)]}
    with pytest.raises(InputError, match="group 's1' is not in the splits"):
        mine_redundancy(folder(tmp_path / "in", sessions), all_train({"other": []}), profile(), tmp_path / "out")


def test_needs_a_section(tmp_path):
    path = folder(tmp_path / "e", {"s": together(("H", "L"))})
    without = load_profile("vectorworks").model_copy(update={"redundancy": None})
    with pytest.raises(ConfigError, match="no section 'redundancy'"):
        mine_redundancy(path, all_train(["s"]), without, tmp_path / "o")


def test_command_line(tmp_path, capsys):
    path = folder(tmp_path / "e", {"s": together(("H", "L"))})
    all_train(["s"]).save(tmp_path / "e")
    assert load_splits(path).report["by"] == "session_id"
    given = ["--events", str(path), "--splits", str(path), "--out", str(tmp_path / "o")]
    assert main(given) == 0
    assert "1 redundant of" in capsys.readouterr().out
    assert main(given) == 2 and "exists already" in capsys.readouterr().err
    assert main([*given, "--overwrite"]) == 0
    assert json.loads((tmp_path / "o" / "redundancy.json").read_text())["dropped"] == 1
    shutil.rmtree(path / "events")
    assert main([*given, "--overwrite"]) == 2
    assert (tmp_path / "o" / "redundancy.csv").is_file(), "what was there stays"


def test_names_of_the_profile_that_fit_nothing_are_noted(tmp_path, capsys):
    sessions = {"s": together(("Menu: H", "L"), ("Menü: H", "L"))}
    settings = {"exclude": ["Menü: H", "L", "Menu: Hh", "zzz"], "high": ["Menu:", "Mennu:"], "low": ["qqq"]}
    labels = Labels({"Menü: H": "Menu: H"})
    _, summary = mine(tmp_path / "e", sessions, tmp_path / "o", dictionary=labels, **settings)
    assert summary["notes"] == [
        "redundancy.exclude of the profile: no event of 'Menü: H'; the dictionary calls it 'Menu: H'",
        "redundancy.exclude of the profile: no event of 'Menu: Hh' (did you mean 'Menu: H'?)",
        "redundancy.exclude of the profile: no event of 'zzz'",
        "redundancy.high of the profile: no command starts with 'Mennu:' (did you mean 'Menu: '?)",
        "redundancy.low of the profile: no command starts with 'qqq'",
    ]
    assert json.loads((tmp_path / "o" / "redundancy.json").read_text())["notes"] == summary["notes"]
    assert capsys.readouterr().err.splitlines() == [f"note: {line}" for line in summary["notes"]]


def test_a_filtered_folder_is_refused(tmp_path):
    path = folder(tmp_path / "e", {"s": together(("H", "L"))})
    (path / "commands.parquet").touch()
    with pytest.raises(InputError, match="e: is filtered already"):
        mine_redundancy(path, all_train(["s"]), profile(), tmp_path / "o")
