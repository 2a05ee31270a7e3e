"""Logs that are written while they are followed, against batch cleaning of what was written."""

import json
import os
import random
import shutil

import polars as pl
import pytest

from data_processing.simulate import NoiseConfig, simulate
from deployment.web import feed, tailing
from deployment.web.board import Board
from deployment.web.feed import Cleaning, Feed, read_descriptions
from recsys.cleaning.dictionary import Dictionary
from recsys.cleaning.pipeline import clean_logs
from recsys.cleaning.profile import load_profile
from recsys.cleaning.redundancy import Redundancy, RedundantPair
from recsys.cleaning.rules import NO_RULES, Rules
from recsys.cleaning.workflows import Workflow, Workflows
from recsys.errors import InputError
from tests.deployment.web.test_board import NOW

VECTORWORKS = load_profile("vectorworks")


@pytest.fixture(autouse=True)
def always_look(monkeypatch):
    monkeypatch.setattr(tailing, "_LOOK", 0.0)


def cleaning(profile=VECTORWORKS, rules=NO_RULES, folder=None):
    return Cleaning(profile, rules, folder)


def line(message, second, session="s", category="UNDO", user="anna"):
    row = {"ts": f"01/02/2025 10:{second // 60:02d}:{second % 60:02d} {second}.5 +0000", "session": session}
    return json.dumps(row | {"sn": user, "cat": category, "message": message}).encode() + b"\n"


def append(path, *data):
    with path.open("ab") as file:
        file.write(b"".join(data))


class Watched:
    """A feed and the board that it fills."""

    def __init__(self, *paths, rules=NO_RULES, profile=VECTORWORKS, **options):
        self.told = []
        self.feed = Feed(paths, cleaning(profile, rules), tell=self.told.append, **options)
        self.board = Board(most=1000)

    def poll(self):
        """Follow until all is read; returns the histories of the last poll."""
        while True:
            news = self.feed.poll()
            self.board.take(news.histories, NOW, 0.0)
            if not news.behind:
                return {history.session_id: history for history in news.histories}

    def commands(self):
        found = {name: [c for c, _ in s.commands] for name, s in self.board.sessions.items() if s.commands}
        return dict(sorted(found.items()))


def batch(path, profile=VECTORWORKS, rules=NO_RULES):
    """The commands of each session as batch cleaning has them, and all columns."""
    events = clean_logs(path, profile, rules)
    sessions = events.partition_by("session_id", as_dict=True, maintain_order=True)
    return {str(key[0]): frame for key, frame in sorted(sessions.items())}


def rules_of(events):
    """Rules of every kind over the commands that are there."""
    counts = events["item_id"].value_counts(sort=True, name="n").sort("n", "item_id", descending=True)
    one, two, three, four, five, six, seven = counts["item_id"].to_list()[:7]
    labels = pl.DataFrame({"message": [six, seven], "command_id": None, "label": [seven, seven]}).cast(pl.String)
    return Rules(
        dropped_commands=[five],
        redundancy=Redundancy(rows=2, seconds=600, pairs=[RedundantPair(high=three, low=four)]),
        dictionary=Dictionary(labels),
        workflows=Workflows(merges=[Workflow(name="Workflow: A", constituents=[one, two])]),
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_log_played_in_any_cuts_through_rotation_gives_what_batch_cleaning_gives(tmp_path, seed):
    simulate(tmp_path / "made", users=4, sessions_per_user=2, seed=seed, log_format="live", events_per_session=25.0,
             noise=NoiseConfig(undo_rate=0.2, clock_phase=seed == 1))  # fmt: skip
    data = b"".join(p.read_bytes() for p in sorted((tmp_path / "made" / "logs").glob("*.jsonl")))
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes(data)
    rules = NO_RULES if seed == 0 else rules_of(clean_logs(whole, VECTORWORKS))
    rng, folder = random.Random(seed), tmp_path / "live"
    folder.mkdir()
    path = folder / "log.jsonl"
    path.touch()
    watched, at, parts = Watched(folder, rules=rules), 0, 0
    while at < len(data):
        piece = data[at : at + rng.choice([1, 40, 3000, 60_000])]
        append(path, piece)
        at += len(piece)
        if rng.random() < 0.5:
            watched.poll()
        if rng.random() < 0.2:
            parts += 1
            if rng.random() < 0.5 or not data[:at].endswith(b"\n"):
                # A program turns its log over between two lines, or goes on writing the line into the old file.
                end = data.find(b"\n", at - 1) + 1
                append(path, data[at:end])
                at = max(at, end)
                path.rename(folder / f"log.jsonl.{parts}")
                path.touch()
            else:
                watched.poll()
                shutil.copyfile(path, folder / f"log.jsonl.{parts}")
                os.truncate(path, 0)
    watched.poll()
    expected = batch(whole, rules=rules)
    assert parts > 0 and len(expected) == 8
    for session, frame in expected.items():
        live = watched.board.sessions[session]
        assert live.commands == list(zip(frame["item_id"], frame["timestamp"], strict=True))
        for column in live.columns:
            assert list(live.columns[column]) == frame[column].to_list()[-feed.SENT :], column
    assert watched.commands().keys() == expected.keys()
    assert watched.feed.counts()["unreadable"] == 0


def test_an_undo_takes_a_command_back_and_a_redo_brings_it_again(tmp_path):
    path = tmp_path / "log.jsonl"
    append(path, line("End Event: 'Create Wall' (1)", 0), line("End Event: 'Drag' (2)", 3))
    watched = Watched(path)
    first = watched.poll()["s"]
    assert [c for c, _ in first.commands] == ["End Event: Create Wall (1)", "End Event: Drag (2)"]
    assert not first.taken_back and first.user == "anna" and first.file == "log.jsonl"
    assert watched.poll() == {}
    append(path, line("Undo Event: 'Drag' (2)", 5))
    undone = watched.poll()["s"]
    assert undone.taken_back and list(undone.columns["item_id"]) == ["End Event: Create Wall (1)"]
    append(path, line("Redo Event: 'Drag' (2)", 7))
    assert watched.poll()["s"].commands == first.commands
    append(path, line("Undo Event: 'Drag' (2)", 8), line("Undo Event: 'Create Wall' (1)", 9))
    assert watched.poll()["s"].commands == [] == watched.commands().get("s", [])


def test_files_of_two_formats_are_one_log(tmp_path):
    append(tmp_path / "a.jsonl", line("End Event: 'Wall' (1)", 0, session="one"))
    header = b"ts,session_anonymized,cat,message\n"
    append(tmp_path / "b.csv", header, b'2025-01-02 10:00:01.0,two,UNDO,"End Event: Door (2)"\n2025-01-02 10:00:0')
    watched = Watched(tmp_path)
    assert set(watched.poll()) == {"one", "two"}
    append(tmp_path / "b.csv", b'5.5,one,UNDO,"End Event: Door (2)"\n')  # the session goes on in the other file
    found = watched.poll()["one"]
    assert found.file == "b.csv" and len(found.commands) == 2
    (tmp_path / "b.csv").rename(tmp_path / "b.csv.1")
    append(tmp_path / "b.csv", header, b"2025-01-02 10:00:09.0,two,UNDO,End Event: Slab (3)\n")
    watched.poll()
    assert {name: len(commands) for name, commands in watched.commands().items()} == {"one": 2, "two": 2}


STUDIO = load_profile("visual_studio")


def test_sessions_that_come_from_pauses(tmp_path):
    path = tmp_path / "log.csv"
    rows = [("09:00", "File.Open"), ("09:05", "Edit.Find"), ("11:00", "File.Open"), ("11:01", "Edit.Paste")]
    lines = [f"2025-01-02 {clock}:00,{user},{name}\n".encode() for user in "78" for clock, name in rows]
    append(path, b"timestamp,developer_id,message\n", *lines[:5])
    watched = Watched(path, profile=STUDIO)
    assert set(watched.poll()) == {"7-1", "7-2", "8-1"}
    append(path, *lines[5:])
    watched.poll()
    expected = {name: frame["item_id"].to_list() for name, frame in batch(path, STUDIO).items()}
    assert watched.commands() == expected and set(expected) == {"7-1", "7-2", "8-1", "8-2"}
    watched.feed.forget(["7-1"])
    assert set(watched.feed.cleaner.last_times()) == {"7", "8"}  # a session of that user is still shown
    watched.feed.forget(["7-2", "8-1", "8-2"])
    assert not watched.feed.cleaner.last_times()


def test_what_is_forgotten_begins_anew(tmp_path):
    path = tmp_path / "log.jsonl"
    append(path, line("End Event: 'Wall' (1)", 0))
    watched = Watched(path)
    watched.poll()
    watched.feed.forget(["s", "never seen"])
    append(path, line("End Event: 'Door' (2)", 1))
    assert [c for c, _ in watched.poll()["s"].commands] == ["End Event: Door (2)"]


HOSTILE = [
    "<img src=x onerror=alert(1)></script>",
    "a\u0000b",
    "\u202egnp.exe",
    "\u2066\u2069\u200f",
    "\x1b[31m red \x07",
    "\u2028\u2029\ufeff",
    '"quoted" \\ back \' tick `${1}`',
    "\U0001f9f1" * 400,
    "=HYPERLINK(1)",
    "../../etc/passwd",
]


def test_hostile_lines_are_carried_as_text_and_what_cannot_be_read_is_counted_only(tmp_path):
    path = tmp_path / "log.jsonl"
    append(path, *(line(f"End Event: {text}", n, session=text, user=text) for n, text in enumerate(HOSTILE)))
    bad = [
        b"not json\n",
        b"{\n",
        b"\xff\xfe\n",
        b"{}\n",
        b"[1, 2]\n",
        b"null\n",
        b'{"ts": {"a": 1}, "session": "x", "cat": "UNDO", "message": "End Event: a"}\n',
        b'{"ts": "yesterday", "session": "x", "cat": "UNDO", "message": "End Event: a"}\n',
        b'{"ts": "01/02/2025 10:00:00 1.0 +0000", "session": "\\ud800", "cat": "UNDO", "message": "End Event: a"}\n',
        b"[" * 20_000 + b"\n",
        b'{"a":' * 5000 + b"\n",
        b"\x00" * 100 + b"\n",
        b"x" * (tailing.LONGEST_LINE + 1) + b"\n",
    ]
    append(path, *bad)
    append(path, line("End Event: Last (1)", 50, session="last"))
    watched = Watched(path)
    watched.poll()
    texts = json.loads(json.dumps(watched.board.messages(), ensure_ascii=True, allow_nan=False))
    found = {session["id"]: session for session in texts}
    assert set(HOSTILE) <= set(found) and found["last"]["recent"][0]["command"] == "End Event: Last (1)"
    for text in HOSTILE:
        assert found[text]["user"] == text
        assert text.strip().split()[-1] in found[text]["recent"][0]["command"].replace("\u00a0", " ")
    counts = watched.feed.counts()
    assert counts["not_text"] == 1 and counts["too_long"] == 1
    assert counts["unreadable"] + counts["not_text"] + counts["too_long"] + len(found) - len(HOSTILE) - 1 == len(bad)
    assert len(watched.told) <= 4


def test_a_log_of_another_kind_is_refused_at_the_start_and_said_once_later(tmp_path):
    path = tmp_path / "log.csv"
    append(path, b"time,what\n1,2\n")
    with pytest.raises(InputError, match=r"log\.csv: column 'ts' is missing.*profile 'vectorworks'"):
        Feed([path], cleaning(), tell=print).first()
    other = tmp_path / "other.jsonl"
    append(other, b'{"a": 1}\n' * 3)
    with pytest.raises(InputError, match=r"other\.jsonl: not one line can be read; column 'ts' is missing"):
        Feed([other], cleaning(), tell=print).first()
    watched = Watched(tmp_path)
    assert not watched.feed.first().histories  # it may be that other files of the folder are logs
    append(path, b"3,4\n")
    append(other, line("End Event: 'Wall' (1)", 0))
    watched.poll()
    assert watched.commands() == {"s": ["End Event: Wall (1)"]}
    assert watched.feed.counts()["unreadable"] == 6 and len(watched.told) == 2


def test_rows_that_lack_something_and_lines_that_parsers_fail_on(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = json.loads(line("End Event: 'Wall' (1)", 0))
    watched = Watched(path.parent)
    other = json.dumps(whole | {"cat": None}).encode() + b"\n"
    lost = json.dumps(whole | {"session": None}).encode() + b"\n"
    append(path, lost, lost, other, other)  # Polars reads them as two chunks, of which cleaning empties the first
    watched.poll()
    for lacking in ("session", "message"):
        append(path, json.dumps(whole | {lacking: None}).encode() + b"\n")
        watched.poll()  # nothing but such rows in a poll
    clock = json.dumps(whole | {"ts": f"01/02/2025 10:00:00 {'9' * 40}.0 +0000"}).encode() + b"\n"
    append(path, line("End Event: 'Door' (2)", 1), clock, b'{"a":' * 5000 + b"\n", line("End Event: 'Slab' (3)", 2))
    watched.poll()
    # A process clock that is no number leaves the row its time.
    assert watched.commands() == {"s": ["End Event: Wall (1)", "End Event: Door (2)", "End Event: Slab (3)"]}
    assert {"lines": 10, "unreadable": 1, "incomplete": 4}.items() <= watched.feed.counts().items()


def test_a_log_may_begin_with_anything(tmp_path):
    path = tmp_path / "log.jsonl"
    append(path, b"\n", b'the end of a line"}\n', b"a,b\n" * 30)
    watched = Watched(tmp_path)
    watched.poll()
    append(path, b"more\n" * 30, line("End Event: 'Wall' (1)", 0), b"less\n", line("End Event: 'Door' (2)", 1))
    watched.poll()
    assert [len(commands) for commands in watched.commands().values()] == [2]
    assert watched.feed.counts()["unreadable"] == 62 and watched.feed.counts()["lines"] == 65
    table = tmp_path / "log.csv"
    append(table, b"x" * 50, b"\nts,session,cat,message\n", b"2025-01-02 10:00:00.0,t,UNDO,End Event: Wall (1)\n")
    watched.poll()
    assert set(watched.commands()) == {"s", "t"}


def test_nothing_is_given_before_all_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tailing, "_A_CALL", 1000)
    path = tmp_path / "log.jsonl"
    append(path, *(line(f"End Event: 'Step {n}' ({n + 1000})", n) for n in range(40)))
    source = Feed([path], cleaning(), tell=print)
    news = source.poll()
    assert news.behind and not news.histories
    while news.behind:
        news = source.poll()
    assert len(news.histories) == 1 and len(news.histories[0].commands) == 40


def test_where_the_cleaning_and_the_descriptions_come_from(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Cleaning.load(tmp_path / "none")
    run = tmp_path / "run"
    (run / "workflow").mkdir(parents=True)
    with pytest.raises(InputError, match=r"it holds no cleaning/profile\.yaml.*--run RUN"):
        Cleaning.load(run)
    (run / "manifest.json").touch()
    with pytest.raises(InputError, match="this bundle holds no cleaning"):
        Cleaning.load(run)
    assert read_descriptions(run)("Wall") == ""
    items = pl.DataFrame({"item_id": [None, "Wall", "Door"], "description": [None, "A wall", None]})
    items.write_parquet(run / "workflow" / "items.parquet")
    (run / "cleaning").mkdir()
    (run / "cleaning" / "profile.yaml").write_text(f"{VECTORWORKS.model_dump_json()}\n")
    Rules(["Door"]).save(run / "cleaning")
    for folder in (run, run / "cleaning"):
        found = Cleaning.load(folder)
        assert found.profile == VECTORWORKS and found.rules.dropped_commands == ["Door"]
    describe = read_descriptions(run)
    assert [describe(name) for name in ("Wall", "Door", "Roof")] == ["A wall", "", ""]
