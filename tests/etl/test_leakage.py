"""The leakage report against a slow count over the raw table and the written dataset."""

import random
from collections import Counter
from itertools import combinations

import polars as pl
import pytest

from recsys.config import RunConfig
from recsys.etl import events as events_module
from recsys.etl.polars_engine import preprocess

SPLITS = ("train", "val", "test")
SCHEMA = {"session_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "user_id": pl.String}


def table(seed, users=9, items=6):
    """Users of some sessions (a few without a user), some of them copies of others' under new times."""
    rng = random.Random(seed)
    lists, rows = [], []
    for user in range(users):
        for session in range(rng.randrange(1, 5)):
            copied = lists and rng.random() < 0.3
            mine = rng.choice(lists) if copied else [f"i{rng.randrange(items)}" for _ in range(rng.randrange(1, 9))]
            lists.append(mine)
            time = rng.randrange(2000)
            for item in mine:
                time += rng.randrange(0, 30)
                shown = None if rng.random() < 0.03 else f"rare{user}" if rng.random() < 0.03 else item
                rows.append((f"s{user}-{session}", shown, time, None if user == 0 else f"u{user}"))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def owned(frame, made, split):
    """(split, sequence, place in it, session, user, item, time) of each event, by the definitions of the rules."""
    rule, by = split["rule"], split.get("by") or ("session_id" if split["rule"] == "position" else "user_id")
    merged = rule in ("leave_last", "time", "position") and by == "user_id"
    sequences = {}
    for session, item, time, user in frame.iter_rows():
        key = (user or f"session {session}") if merged else session
        sequences.setdefault(key, []).append((time, session if merged else "", session, user, item))
    rows = []
    assigned = {}
    if rule in ("share", "every_nth"):
        for name in SPLITS:
            for session in pl.read_parquet(made / name / "*.parquet")["session_id"]:
                assigned[session] = name
    times = sorted(frame["timestamp"])
    fifth = round(len(times) * 0.2)
    first, second = times[len(times) - 2 * fifth], times[len(times) - fifth]
    for key, events in sequences.items():
        events.sort(key=lambda e: e[:2])
        n = len(events)
        for place, (time, _, session, user, item) in enumerate(events):
            if rule == "leave_last":
                at = 0 if n < 3 or place < n - 2 else 1 if place == n - 2 else 2
            elif rule == "time":
                at = 0 if time < first else 1 if time < second else 2
            elif rule == "position":
                train = max(1, n * 6 // 10)
                at = 0 if place < train else 1 if place < n * 8 // 10 else 2
            else:
                at = SPLITS.index(assigned[session])
            rows.append((SPLITS[at], key, place, session, user, item, time))
    return rows, merged


def share(count, of):
    return {"count": count, "of": of, "share": round(count / of, 6) if of else 0.0}


def by_hand(rows, inside):
    """The report, counted the slow way."""
    held = {name: [r for r in rows if r[0] == name] for name in SPLITS}
    sets = {n: {"sessions": {r[3] for r in held[n]}, "users": {r[4] for r in held[n]} - {None}} for n in SPLITS}
    groups = {n: {kind: len(s) for kind, s in sets[n].items()} for n in SPLITS}
    duplicates = {"min_length": 5}
    lists = {}
    for n in SPLITS:
        own = {r[1] for r in held[n]}
        upto = SPLITS[: SPLITS.index(n) + 1] if inside else (n,)
        whole = {}
        for r in sorted((r for r in rows if r[1] in own and r[0] in upto), key=lambda r: r[2]):
            whole.setdefault(r[1], []).append(r[5])
        lists[n] = [tuple(v) for v in whole.values() if len(v) >= 5]
    for a, b in combinations(SPLITS, 2):
        groups[f"{a}_{b}"] = {kind: len(sets[a][kind] & sets[b][kind]) for kind in sets[a]}
        duplicates[f"{a}_{b}"] = share(sum(v in set(lists[a]) for v in lists[b]), len(lists[b]))
    unseen, future = {}, {}
    known = {r[5] for r in held["train"]}
    for n in SPLITS[1:]:
        items = Counter(r[5] for r in held[n] if r[5] is not None)
        new = {i: c for i, c in items.items() if i not in known}
        unseen[n] = {"items": share(len(new), len(items)), "events": share(sum(new.values()), sum(items.values()))}
        points = [((r[4] or f"session {r[3]}"), r[6]) for r in held[n] if r[2] > 0]
        if not points:
            continue
        train = [((r[4] or f"session {r[3]}"), r[6]) for r in held["train"]]
        first = min(t for _, t in points)
        own = {}
        for group in {g for g, _ in points}:
            start = min(t for g, t in points if g == group)
            mine = [t for g, t in train if g == group]
            own[group] = share(sum(t > start for t in mine), len(mine))
        worst = min(own, key=lambda g: (-own[g]["count"], g))
        future[n] = {
            "first_point": {"group": min(g for g, t in points if t == first), "timestamp": first},
            "overall": share(sum(t > first for _, t in train), len(train)),
            "own": share(sum(v["count"] for v in own.values()), len(train))
            | {"groups": sum(v["count"] > 0 for v in own.values())},
            "worst_group": {"group": worst, **own[worst]} if own[worst]["count"] else None,
        }
    return {"groups": groups, "future": future, "duplicates": duplicates, "unseen_items": unseen}


CASES = [
    {"rule": "share", "by": "session_id", "test_share": 0.3, "validation_share": 0.3},
    {"rule": "every_nth", "every": 3, "by": "user_id"},
    {"rule": "leave_last"},
    {"rule": "leave_last", "by": "session_id"},
    {"rule": "time", "test_share": 0.2, "validation_share": 0.2},
    {"rule": "time", "test_share": 0.2, "validation_share": 0.2, "by": "session_id"},
    {"rule": "position", "test_share": 0.2, "validation_share": 0.2},
]


@pytest.mark.parametrize("split", CASES, ids=lambda s: "-".join(map(str, s.values())))
def test_all_figures_equal_a_slow_count(tmp_path, monkeypatch, split):
    seen = Counter()
    for seed in range(4):
        frame = table(seed)
        config = RunConfig(split=split, etl={"categorical": {"item_id": {}}, "continuous": {}})
        monkeypatch.setattr(events_module, "BUCKET_ROWS", [10**6, 20][seed % 2])
        made = preprocess(frame, config, tmp_path / str(seed))
        rows, inside = owned(frame, made.path, split)
        inside = inside or split["rule"] in ("leave_last", "time", "position")
        expected = by_hand(rows, inside)
        assert made.report["leakage"] == expected
        future = expected["future"].get("test", {})
        seen["duplicates"] += expected["duplicates"]["train_test"]["count"]
        seen["own"] += future.get("own", {}).get("count", 0)
        seen["overall"] += future.get("overall", {}).get("count", 0)
        seen["unseen"] += expected["unseen_items"]["test"]["items"]["count"]
    # What is counted does occur, and a rule by users or by time leaves nothing in its own group's future.
    if split == CASES[0]:
        assert seen["duplicates"] and seen["own"] and seen["overall"] and seen["unseen"]
    elif split["rule"] == "time":
        assert not seen["overall"]
    elif split.get("by") != "session_id" and split["rule"] != "position":
        assert not seen["own"] and seen["overall"]


def test_the_documents_protocol_shows_its_leak(tmp_path):
    rng = random.Random(1)
    rows = [(f"s{s}", f"i{rng.randrange(9)}", 100 * s + n, f"u{s}") for s in range(12) for n in range(30)]
    config = RunConfig(split={"rule": "document"}, etl={"chunk": {"min_items": 5, "max_items": 8}, "optional": ["cat"]})
    config.etl.categorical = {"item_id": {}}
    config.etl.continuous = {}
    made = preprocess(pl.DataFrame(rows, schema=SCHEMA, orient="row"), config, tmp_path / "out")
    report = made.report["leakage"]
    trains, vals = (pl.read_parquet(made.path / n / "*.parquet") for n in ("train", "val"))
    shared = set(trains["session_id"]) & set(vals["session_id"])
    assert report["groups"]["train_val"] == {"sessions": len(shared), "users": len(shared)} and len(shared) > 5
    first = dict(
        vals.select("session_id", pl.col("timestamp").list.get(1)).sort("timestamp", descending=True).iter_rows()
    )
    later = [
        sum(t > first[s] for t in times)
        for s, times in trains.select("session_id", "timestamp").iter_rows()
        if s in first
    ]
    assert report["future"]["val"]["own"]["count"] == sum(later) > 0
    assert "test" not in report["future"] and "train and val" in made.leakage()


def test_the_line_names_what_is_shared(tmp_path):
    rows = [
        (f"s{u}{n}", i, 1000 * n + 10 * u + p, f"u{u}")
        for u in range(10)
        for n in range(2)
        for p, i in enumerate("abcde")
    ]
    config = RunConfig(split={"by": "session_id", "coverage": False}, etl={"categorical": {"item_id": {}}})
    made = preprocess(pl.DataFrame(rows, schema=SCHEMA, orient="row"), config, tmp_path / "out")
    line = made.leakage()
    shared = made.report["leakage"]["groups"]["train_test"]["users"]
    assert line.startswith(f"{shared} users and 0 sessions in train and test; 2 of 2 test sequences also in train; ")
    assert line.endswith("0 of 5 test items not in train")
