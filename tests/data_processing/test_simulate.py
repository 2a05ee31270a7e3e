"""The generated logs are read back by a small, slow reader and must give the written truth."""

import hashlib
import json
import re
import tracemalloc
from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from data_processing.simulate import NoiseConfig, SimulationReport, simulate
from data_processing.simulate_catalogue import LANGUAGES, MENU, TOOL, build_catalogue
from data_processing.simulate_session import CHAINS
from recsys.cleaning.profile import load_profile

VIEW_IDS = {242, -242, 218, 8, 199, 236, -241, -240, 307, 201, -303, 305, 306, 193, 205, 203}
SHAPES = [("batch", "csv"), ("batch", "parquet"), ("batch", "jsonl"), ("live", "jsonl"), ("live", "parquet")]
TRUTH = ["session_id", "user_id", "item_id", "timestamp", "cat", "merge_count"]


def generate(out: Path, log_format: str = "batch", file_format: str = "csv", **more) -> SimulationReport:
    settings = {
        "users": 12,
        "sessions_per_user": range(2, 6),
        "seed": 3,
        "chunk_users": 5,
        "rows_per_file": 7_000,
    }
    return simulate(out, log_format=log_format, file_format=file_format, **(settings | more))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, SimulationReport]:
    out = tmp_path_factory.mktemp("simulated") / "logs"
    report = generate(out, users=60, sessions_per_user=range(4, 9), noise=NoiseConfig(undo_rate=0.1))
    return out, report


def read_rows(folder: Path) -> list[dict]:
    """All rows in file order; times as microseconds since 1970."""
    rows = []
    for path in sorted((folder / "logs").iterdir()):
        if path.suffix == ".jsonl":
            rows += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        else:
            frame = pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
            rows += frame.to_dicts()
    return rows


@pytest.fixture(scope="module")
def made_rows(made) -> list[dict]:
    """The rows of `made`; not to be changed."""
    return read_rows(made[0])


def microseconds(row: dict) -> int:
    if "session_anonymized" in row:
        moment = datetime.strptime(row["ts"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
    else:
        day, clock, seconds, zone = row["ts"].split(" ")
        moment = datetime.strptime(f"{day} {clock}.{seconds.split('.')[1]} {zone}", "%m/%d/%Y %H:%M:%S.%f %z")
    return (
        round(moment.timestamp()) * 1_000_000 + moment.microsecond - (1_000_000 if moment.microsecond >= 500_000 else 0)
    )


def canonical(message: str) -> str:
    message = " ".join(message.replace("(MAX-20) ", "").split())
    message = re.sub(r"(?<=[ ])'(.*?)'(?= [-(])", r"\1", message)
    return re.sub(r"^(Menu: .* \(-?\d+\)) \(\d+\)$", r"\1", message)


NOISE = ("DestroyEvent:", "Begin Internal Event:", "Event:", "Event name changed from", "Beta Undo Alert",
         "Undo Problem:", "Abort Event:", "Menu: Undo", "Menu: Redo")  # fmt: skip


# Menus that change nothing in the drawing, written out anew: File, Copy and Select in five languages.
NOT_STARTERS = re.compile(
    r"Menu: ((File|Datei|Fichier|ファイル|Archivo) - |(Edit|Bearbeiten|Édition|編集|Edición) - "
    r"(Copy |Copier |Copiar |Select |Sélectionner |Seleccionar |\S+ kopieren|\S+ aktivieren|\S+(をコピー|を選択) ))"
)


def replay(rows: list[dict]) -> tuple[list[tuple], Counter]:
    """The clean sequence of each session, by scanning backwards and forwards over plain lists."""
    sessions: dict[str, list] = defaultdict(list)
    for row in rows:
        text = canonical(row["message"])
        number = re.search(r"\((-?\d+)\)$", text)
        view = not text.startswith("Menu:") and number is not None and int(number[1]) in VIEW_IDS
        view = view and not text.startswith("Tool: Selection Tool (")  # `replay_session` has to see it
        if row["cat"] in ("UNDO", "Menu", "Tool") and not text.startswith(NOISE) and not view:
            session = row.get("session_anonymized") or row["session"]
            user = row.get("user_anonymized") or row["sn"]
            sessions[session].append((text, microseconds(row), row["cat"], user))
    clean, seen = [], Counter()
    for session, events in sessions.items():
        for at, (text, when, cat, user, count) in enumerate(replay_session(events, seen)):
            clean.append((session, user, text, when, cat, count, at))
    return clean, seen


def replay_session(events: list[tuple], seen: Counter) -> list[tuple]:
    present = [not text.startswith("Tool: Selection Tool (") for text, *_ in events]
    undoable, redoable = [], []
    spared = set()  # rows of tools and menus that would leave, had the selection tool not been chosen after them

    def toggle(end: int, value: bool) -> None:
        assert present[end] is not value
        present[end] = value
        before = [i for i in range(end) if events[i][0].startswith("End Event:")]
        rows = [i for i in range((before or [-1])[-1] + 1, end) if events[i][2] in ("Tool", "Menu")]
        selections = [i for i in rows if events[i][0].startswith("Tool: Selection Tool (")]
        rows = [i for i in rows if i not in selections]
        starters = [i for i in rows if not NOT_STARTERS.match(events[i][0])]
        seen["not a starter"] += not value and starters[-1:] != rows[-1:]
        if starters and selections and selections[-1] > starters[-1]:
            (spared.discard if value else spared.add)(starters[-1])
        elif starters:
            present[starters[-1]] = value

    for i, (text, *_) in enumerate(events):
        if text.startswith("End Event:"):
            undoable.append(i)
            redoable = []
        elif text.startswith(("Undo Event:", "Undo and Remove Action:", "Redo Event:")):
            present[i] = False
            redo = text.startswith("Redo")
            source = redoable if redo else undoable
            kind = text.split(":")[0]
            if not source:
                seen[f"unmatched {kind}"] += 1
                continue
            event = source.pop()
            assert events[event][0].split(": ")[1] == text.split(": ")[1]  # the row names what it undoes
            seen[kind] += 1
            toggle(event, redo)
            if redo:
                undoable.append(event)
            elif kind == "Undo Event":
                redoable.append(event)
    seen["spared"] += len(spared)
    merged: list[list] = []
    for (text, when, cat, user), keep in zip(events, present, strict=True):
        if keep and merged and merged[-1][0] == text:
            merged[-1][4] += 1
        elif keep:
            merged.append([text, when, cat, user, 1])
    return [tuple(event) for event in merged]


def truth(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "truth" / "clean.parquet")


@pytest.mark.parametrize(("log_format", "file_format"), SHAPES)
def test_replaying_the_rows_gives_the_truth(tmp_path, log_format, file_format):
    report = generate(tmp_path / "a", log_format, file_format, noise=NoiseConfig(undo_rate=0.15))
    rows = read_rows(tmp_path / "a")
    clean, _ = replay(rows)
    wanted = truth(tmp_path / "a").select(*TRUTH, "position").rows()
    assert sorted(clean) == sorted(wanted)
    assert len(rows) == report.raw_rows and len(wanted) == report.clean_events > 1500


def test_all_formats_tell_the_same_story(tmp_path):
    for log_format, file_format in SHAPES:
        generate(tmp_path / f"{log_format}-{file_format}", log_format, file_format)
    generate(tmp_path / "quoted", noise=NoiseConfig(quoted_batch=True))
    first, *others = sorted(tmp_path.iterdir())
    story = [(microseconds(row), row["cat"], canonical(row["message"])) for row in read_rows(first)]
    for other in others:
        assert truth(other).equals(truth(first))
        assert story == [(microseconds(row), row["cat"], canonical(row["message"])) for row in read_rows(other)]
    live = read_rows(tmp_path / "live-jsonl")
    assert any(row["message"].startswith("Tool: '") for row in live)
    assert {row["ts"][-5:] for row in live} > {"+0000", "+0100"}
    assert all("label" in row for row in live if row["cat"] == "CTS" and row["message"] != "CTS notifying observers")
    assert {row["log_lvl"] for row in live} == {4, 5}


def test_live_clock_out_of_phase_keeps_the_intervals(tmp_path):
    generate(tmp_path / "a", "live", "jsonl", noise=NoiseConfig(clock_phase=True))
    first: dict[str, tuple[int, int]] = {}
    found = defaultdict(set)
    for row in read_rows(tmp_path / "a"):
        whole = microseconds(row) // 1_000_000 * 1_000_000
        counter = int(row["ts"].split(" ")[2].replace(".", ""))
        begin = first.setdefault(row["session"], (whole, counter))
        found[row["session"]].add(counter - begin[1])
        assert abs((whole - begin[0]) - (counter - begin[1])) < 1_000_000
    clean = truth(tmp_path / "a").group_by("session_id").agg(pl.col("timestamp").sort())
    for session, times in clean.iter_rows():
        gaps = {time - times[0] for time in times}
        assert any(gaps <= {value - start for value in found[session]} for start in sorted(found[session])[:60])


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    def digests(name: str, **more) -> dict[str, str]:
        generate(tmp_path / name, **more)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {str(f.relative_to(tmp_path / name)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    first = digests("a")
    assert digests("b") == first
    assert len([name for name in first if name.startswith("logs")]) > 1
    other = digests("c", seed=4)
    assert other["logs/part-00000.csv"] != first["logs/part-00000.csv"]
    assert other["truth/clean.parquet"] != first["truth/clean.parquet"]


def test_every_planted_feature_is_in_the_rows(made, made_rows):
    out, report = made
    for name in (
        *CHAINS,
        "stray_undo",
        "stray_redo",
        "repeat",
        "rare",
        "short_session",
        "pair",
        "abort",
        "view",
    ):
        assert report.planted[name] > 0, name
    rows = made_rows
    _, seen = replay(rows)
    assert seen["unmatched Undo Event"] == report.planted["stray_undo"]
    assert seen["unmatched Redo Event"] == report.planted["stray_redo"]
    assert seen["not a starter"] == report.planted["undo_after_not_starter"] > 5
    assert seen["spared"] == report.planted["undo_after_selection"] > 5
    assert seen["Undo and Remove Action"] == sum(
        report.planted[name] for name in ("undo_and_remove", "undo_and_remove_stray_redo")
    )
    texts = Counter(re.sub(r"[:(].*", "", row["message"]) for row in rows)
    for prefix in (
        "DestroyEvent",
        "Begin Internal Event",
        "Beta Undo Alert",
        "Undo Problem",
        "Abort Event",
        "ALERT",
    ):
        assert texts[prefix] > 0, prefix
    for prefix in ("Event name changed from", "Menu: Undo", "Menu: Redo", "End Event: (MAX-20) ", "Tool:  "):
        assert any(row["message"].startswith(prefix) for row in rows), prefix
    assert truth(out)["merge_count"].max() > 2
    lengths = truth(out).group_by("session_id").len()["len"]
    assert lengths.min() < 5 < lengths.median()


def test_undo_redo_undo_of_one_event_happens_and_stays_undone(made, made_rows):
    _, report = made
    kinds = defaultdict(str)
    for row in made_rows:
        letter = {"Undo Event": "u", "Redo Event": "r", "End Event": "e"}.get(row["message"].split(":")[0], "")
        if (
            row["cat"] == "UNDO"
            and letter
            and int(re.search(r"\((-?\d+)\)$", canonical(row["message"]))[1]) not in VIEW_IDS
        ):
            kinds[row["session_anonymized"]] += letter
    chains = Counter(chain for text in kinds.values() for chain in re.findall("[ur]+", text))
    assert chains["uru"] >= report.planted["undo_redo_undo"] > 0
    assert any(re.fullmatch("u{2,4}r{1,3}", chain) for chain in chains)


def test_views_are_noise_save_on_menus(made):
    out, _ = made
    numbers = truth(out).select("cat", pl.col("canonical_id").str.extract(r"\((-?\d+)\)").cast(pl.Int64).alias("n"))
    assert numbers.filter((pl.col("cat") != "Menu") & pl.col("n").is_in(list(VIEW_IDS))).is_empty()
    assert len(numbers.filter((pl.col("cat") == "Menu") & pl.col("n").is_in(list(VIEW_IDS)))) > 0
    assert {-203, -201} <= set(numbers["n"].to_list())


def test_the_profile_knows_which_menus_begin_nothing():
    prefixes = tuple(load_profile("vectorworks").undo.not_starters)
    commands = [c for c in build_catalogue().commands if c.kind in (TOOL, MENU)]
    for command in commands:
        for language in LANGUAGES:
            item = command.item_id(language)
            assert item.startswith(prefixes) is not command.starts, item
    assert 20 < sum(not c.starts for c in commands) < 40


def test_high_level_commands_always_bring_their_low_level_one(made):
    out, _ = made
    followers = truth(out).with_columns(pl.col("canonical_id").shift(-1).over("session_id").alias("next"))
    pairs = json.loads((out / "truth" / "planted_pairs.json").read_text())
    seen = 0
    for pair in pairs:
        nexts = followers.filter(pl.col("canonical_id") == pair["high"])["next"].to_list()
        seen += len(nexts)
        assert set(nexts) <= {pair["low"]}, pair
        lows = followers.filter(pl.col("canonical_id") == pair["low"])
        assert len(lows) >= len(nexts)
    assert seen > 20 and len(pairs) >= 6


def test_subsequences_are_frequent(made):
    out, _ = made
    joined = truth(out).group_by("session_id", maintain_order=True).agg(pl.col("canonical_id").str.join("|"))
    for sequence in json.loads((out / "truth" / "subsequences.json").read_text()):
        assert joined["canonical_id"].str.count_matches("|".join(sequence), literal=True).sum() >= 10, sequence


def test_metadata_covers_every_command_in_every_language(made):
    out, report = made
    commands = pl.read_parquet(out / "commands.parquet")
    events = truth(out)
    assert commands["item_id"].is_unique().all() and commands.null_count().sum_horizontal().item() == 0
    assert set(events["item_id"]) <= set(commands["item_id"])
    assert 150 <= commands["canonical_id"].n_unique() == report.commands <= 300
    facts = commands.group_by("canonical_id").agg(pl.col("classification", "target").n_unique())
    assert facts.select(pl.max("classification", "target")).row(0) == (1, 1)
    spoken = events.group_by("canonical_id").agg(pl.col("item_id").n_unique())
    assert spoken["item_id"].max() >= 4
    languages = dict(commands.select("item_id", "language").iter_rows())
    per_user = events.with_columns(pl.col("item_id").replace_strict(languages).alias("l")).filter(pl.col("l") != "en")
    assert (per_user.group_by("user_id").agg(pl.col("l").n_unique())["l"] <= 3).mean() > 0.9
    counts = events["canonical_id"].value_counts().sort("count", descending=True)["count"]
    assert counts[0] > 8 * counts[len(counts) // 2]  # a few commands make most of the rows


def test_sessions_interleave_share_times_and_go_on_in_the_next_file(made, made_rows):
    out, report = made
    rows = pl.DataFrame(made_rows).with_row_index()
    changes = (rows["session_anonymized"] != rows["session_anonymized"].shift()).sum()
    assert changes > 2 * report.sessions
    assert (rows["ts"] == rows["ts"].shift()).sum() > 100
    clean = truth(out)
    assert ((clean["timestamp"] == clean["timestamp"].shift()) & (clean["position"] > 0)).sum() > 30
    files = [set(pl.read_csv(path)["session_anonymized"]) for path in sorted((out / "logs").iterdir())]
    assert any(a & b for a, b in pairwise(files))
    assert report.rows_by_category["CTS"] == pytest.approx(0.5 * report.raw_rows, rel=0.01)
    spans = rows.group_by("user_anonymized", "session_anonymized").agg(
        pl.col("ts").min().alias("from"), pl.col("ts").max().alias("to")
    ).sort("user_anonymized", "from")  # fmt: skip
    times = spans.with_columns(pl.col("from", "to").str.to_datetime()).with_columns(
        (pl.col("from") - pl.col("to").shift().over("user_anonymized")).dt.total_minutes().alias("pause")
    )
    assert times["pause"].min() >= 40


def test_the_past_beyond_two_commands_tells_what_comes_next(made):
    """Edits whose two predecessors do not name their object: it was drawn earlier in this very session."""
    out, _ = made
    commands = pl.read_parquet(out / "commands.parquet").select("item_id", "classification", "target")
    table = truth(out).join(commands, on="item_id", how="left", maintain_order="left")
    grouped = table.group_by("session_id", maintain_order=True).agg("classification", "target", "cat")
    sessions = [list(zip(*columns, strict=True)) for _, *columns in grouped.rows()]
    here = elsewhere = total = 0
    for number, events in enumerate(sessions):
        other = sessions[(number + 7) % len(sessions)][: len(events)]
        for at in range(3, len(events)):
            kind, target, cat = events[at]
            named = {t for _, t, _ in events[at - 2 : at]} | {"Object"}
            if kind == "Update" and cat == "UNDO" and target not in named:
                total += 1
                here += ("Create", target) in {(k, t) for k, t, _ in events[:at]}
                elsewhere += ("Create", target) in {(k, t) for k, t, _ in other[:at]}
    assert total > 500
    assert here / total > 0.55 > 0.3 > elsewhere / total


def test_memory_does_not_grow_with_users(tmp_path):
    def peak(users: int) -> tuple[int, SimulationReport]:
        tracemalloc.start()
        report = generate(tmp_path / str(users), "batch", "parquet", users=users, rows_per_file=100_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, report

    peak(5)
    small, first = peak(10)
    large, second = peak(40)
    assert second.chunks == 4 * first.chunks and second.raw_rows > 3 * first.raw_rows
    assert large < 1.35 * small
