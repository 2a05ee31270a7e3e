"""Splits: sizes, coverage, determinism, each rule against its definition."""

import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import SplitConfig
from recsys.errors import ConfigError, InputError
from recsys.etl import occurrences
from recsys.etl.occurrences import Pairs
from recsys.etl.split import assign_splits, collector, group_column, load_splits


def table(pairs):
    return pl.DataFrame(pairs, schema={"group": pl.String, "item_id": pl.String}, orient="row")


def by_split(result):
    found = {"train": set(), "val": set(), "test": set()}
    for group, split in result.assignment.iter_rows():
        found[split].add(group)
    return found


def random_pairs(seed, groups=40, items=30, per_group=12):
    rng = random.Random(seed)
    return [(f"g{g}", f"i{rng.randrange(items)}") for g in range(groups) for _ in range(per_group)]


PAIRS = st.lists(
    st.tuples(st.integers(0, 12).map(lambda n: f"g{n}"), st.integers(0, 6).map(lambda n: f"i😀{n}")),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.sampled_from(["share", "every_nth", "document"]), st.integers(0, 3), st.booleans())
def test_every_group_once_and_row_order_and_repeats_do_not_matter(pairs, rule, seed, coverage):
    config = SplitConfig(rule=rule, seed=seed, coverage=coverage)
    first = assign_splits(table(pairs), config)
    other = list(pairs) * 2
    random.Random(1).shuffle(other)
    second = assign_splits(table(other), config)
    assert first.assignment.equals(second.assignment)
    assert first.report == second.report
    assert first.assignment["group"].to_list() == sorted({g for g, _ in pairs})


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.sampled_from(["share", "every_nth", "document"]), st.integers(0, 3))
def test_the_report_lists_exactly_what_a_split_lacks(pairs, rule, seed):
    result = assign_splits(table(pairs), SplitConfig(rule=rule, seed=seed))
    split = dict(result.assignment.iter_rows())
    holders = {}
    for group, item in pairs:
        holders.setdefault(item, set()).add(group)
    present = [name for name in ("train", "val", "test") if name in split.values()]
    val_needs = 3 if "test" in present else 2
    expected = {name: [] for name in present}
    for item in sorted(holders):
        for name in present:
            wanted = len(holders[item]) >= (val_needs if name == "val" else 2)
            if wanted and name not in {split[g] for g in holders[item]}:
                expected[name].append(item)
    assert {name: found["items"] for name, found in result.report["uncovered"].items()} == expected
    assert result.report["groups"] == {name: list(split.values()).count(name) for name in ("train", "val", "test")}


def test_share_keeps_its_sizes_and_coverage_covers_what_chance_does_not():
    pairs = random_pairs(3)
    plain = assign_splits(table(pairs), SplitConfig(test_share=0.2, validation_share=0.25, coverage=False))
    covered = assign_splits(table(pairs), SplitConfig(test_share=0.2, validation_share=0.25))
    for result in (plain, covered):
        assert {k: len(v) for k, v in by_split(result).items()} == {"train": 24, "val": 8, "test": 8}
    assert sum(v["count"] for v in plain.report["uncovered"].values()) > 0
    assert sum(v["count"] for v in covered.report["uncovered"].values()) == 0


def test_an_item_of_two_groups_is_in_train_and_test_and_one_of_three_in_all():
    pairs = [(f"g{n:02}", "common") for n in range(30)]
    pairs += [("g04", "two"), ("g17", "two"), ("g08", "three"), ("g21", "three"), ("g29", "three")]
    for seed in range(10):
        split = dict(assign_splits(table(pairs), SplitConfig(seed=seed)).assignment.iter_rows())
        assert {split["g04"], split["g17"]} == {"train", "test"}
        assert {split["g08"], split["g21"], split["g29"]} == {"train", "val", "test"}


def test_seeds_differ():
    results = {tuple(assign_splits(table(random_pairs(0)), SplitConfig(seed=s)).assignment["split"]) for s in range(5)}
    assert len(results) == 5


def test_every_nth_counts_numbers_as_numbers_and_text_as_text():
    numbers = [(str(n), "x") for n in (1, 2, 10, 9, 100, 33, 7)]
    result = assign_splits(table(numbers), SplitConfig(rule="every_nth", every=3, validation_share=0.0))
    assert by_split(result)["test"] == {"1", "9", "100"}  # of 1 2 7 9 10 33 100
    texts = [*numbers, ("a", "x")]
    result = assign_splits(table(texts), SplitConfig(rule="every_nth", every=3, validation_share=0.0))
    assert by_split(result)["test"] == {"1", "2", "9"}  # of 1 10 100 2 33 7 9 a


@pytest.mark.parametrize("seed", range(3))
def test_coverage_never_moves_the_fixed_test_groups(seed):
    pairs = [(str(n), f"i{n % 9}") for n in range(50)] + [(str(n), "only in test") for n in (0, 5)]
    result = assign_splits(table(pairs), SplitConfig(rule="every_nth", every=5, seed=seed))
    assert by_split(result)["test"] == {str(n) for n in range(0, 50, 5)}
    assert result.report["uncovered"]["train"]["items"] == ["only in test"]
    assert len(by_split(result)["val"]) == 4  # a tenth of the other forty
    listed = SplitConfig(rule="list", test_groups=["3", "4"], validation_groups=["7"], seed=seed)
    assert by_split(assign_splits(table(pairs), listed))["test"] == {"3", "4"}
    assert by_split(assign_splits(table(pairs), listed))["val"] == {"7"}


def test_names_that_are_numbers_need_no_quotes():
    listed = SplitConfig(rule="list", test_groups=[3, "4"], validation_groups=[7])
    assert listed.test_groups == ["3", "4"] and listed.validation_groups == ["7"]
    for wrong in ([True], [1.5], 3, "3"):
        with pytest.raises(ValueError, match="test_groups"):
            SplitConfig(rule="list", test_groups=wrong)


def test_wrong_lists_say_what_is_wrong():
    pairs = table([("anna", "x"), ("bert", "x")])
    with pytest.raises(ConfigError, match=r"test_groups: no group 'ana' .*did you mean 'anna'"):
        assign_splits(pairs, SplitConfig(rule="list", test_groups=["ana"]))
    with pytest.raises(ConfigError, match="'anna' is in test_groups and in validation_groups"):
        assign_splits(pairs, SplitConfig(rule="list", test_groups=["anna"], validation_groups=["anna"]))
    with pytest.raises(ConfigError, match="needs test_groups"):
        assign_splits(pairs, SplitConfig(rule="list"))
    with pytest.raises(InputError, match="'group' is missing"):
        assign_splits(pl.DataFrame({"user": ["a"], "item_id": ["x"]}), SplitConfig())


def test_the_documents_rule_covers_every_item_of_two_groups_and_splits_the_rest_85_15():
    pairs = [(f"s{n}", f"i{n % 20}") for n in range(2000)]
    result = assign_splits(table(pairs), SplitConfig(rule="document"))
    found = by_split(result)
    assert not found["test"] and "test = val" in result.report["note"]
    for item in range(20):
        holders = {g for g, i in pairs if i == f"i{item}"}
        assert holders & found["train"] and holders & found["val"]
    # 20 items claim one session for each side; of the other 1,960, 15 % are validation
    assert len(found["val"]) == 20 + round(0.15 * 1960)


@pytest.mark.parametrize(("groups", "sizes"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1))])
def test_few_groups_still_leave_one_to_train(groups, sizes):
    result = assign_splits(table([(f"g{n}", "x") for n in range(groups)]), SplitConfig())
    assert tuple(len(by_split(result)[name]) for name in ("train", "val", "test")) == sizes


SMALL = [
    {"rule": "list", "test_groups": ["g7", "g1234"], "validation_groups": ["g5"]},
    {"rule": "list", "test_groups": ["g7"]},
    {"rule": "every_nth", "every": 150},
    {"rule": "share", "test_share": 0.004, "validation_share": 0.006},
]


@pytest.mark.parametrize("split", SMALL, ids=lambda s: "-".join(map(str, s.values())))
def test_an_item_of_many_groups_is_not_said_to_lack_in_a_small_split(split, monkeypatch):
    monkeypatch.setattr(occurrences, "CUT_AT", 5_000)
    config = SplitConfig(**split, coverage=False)
    pairs = [(f"g{g}", f"i{i}") for g in range(1500) for i in range(12)]
    found = collector(config)
    for start in range(0, len(pairs), 4_000):
        found.add(Pairs.of(table(pairs[start : start + 4_000])))
    assert {name: v["count"] for name, v in assign_splits(found, config).report["uncovered"].items()} == {
        "train": 0,
        "val": 0,
        "test": 0,
    }
    assert found.pairs().drop_nulls().height <= len(pairs)


def test_saved_splits_load_again_and_bad_ones_are_named(tmp_path):
    result = assign_splits(table(random_pairs(1)), SplitConfig(), by="user_id")
    result.save(tmp_path)
    loaded = load_splits(tmp_path)
    assert loaded.assignment.equals(result.assignment) and loaded.report == result.report
    bad = result.assignment.with_columns(split=pl.lit("tset"))
    bad.write_parquet(tmp_path / "splits.parquet")
    with pytest.raises(InputError, match=r"splits.parquet: row 1: split 'tset' is none of train, val, test"):
        load_splits(tmp_path)
    pl.concat([result.assignment, result.assignment[:1]]).write_parquet(tmp_path / "splits.parquet")
    with pytest.raises(InputError, match="group 'g0' stands twice"):
        load_splits(tmp_path)


def test_groups_are_users_where_there_are_any():
    assert group_column(SplitConfig(), ["session_id", "user_id"]) == "user_id"
    assert group_column(SplitConfig(), ["session_id"]) == "session_id"
    assert group_column(SplitConfig(rule="document"), ["session_id", "user_id"]) == "session_id"
    with pytest.raises(InputError, match="'user_id' is missing"):
        group_column(SplitConfig(by="user_id"), ["session_id"])


def test_the_report_names_the_rule_and_what_it_depends_on():
    pairs = table(random_pairs(0))
    share = assign_splits(pairs, SplitConfig(test_share=0.2, seed=3)).report
    wanted = {"rule": "share", "seed": 3, "test_share": 0.2, "validation_share": 0.1, "coverage": True}
    assert share.items() >= wanted.items() and "every" not in share
    nth = assign_splits(pairs, SplitConfig(rule="every_nth", every=4, coverage=False)).report
    assert nth.items() >= {"every": 4, "validation_share": 0.1, "coverage": False}.items() and "test_share" not in nth
