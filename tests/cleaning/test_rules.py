"""What cleaning learned: saved and read again, applied in one order, and to a raw log as to the events of the chain."""

import polars as pl
import pytest

from data_processing import clean
from data_processing.simulate import NoiseConfig, simulate
from recsys.cleaning.dictionary import Dictionary
from recsys.cleaning.fitting import RedundancyConfig, WorkflowConfig
from recsys.cleaning.funnel import Funnel
from recsys.cleaning.pipeline import clean_logs
from recsys.cleaning.profile import Profile, RareConfig, load_profile
from recsys.cleaning.redundancy import Redundancy, RedundantPair
from recsys.cleaning.rules import NO_RULES, Rules, apply_rules
from recsys.cleaning.workflows import Workflow, Workflows
from recsys.errors import ConfigError, InputError

ODD = ['comma, "quote"', "two\nlines", "return\r", " blank", "größe 壁", "plain"]
X_Y = Workflow(name="X and Y", constituents=["X", "Y"])


def plain(**change: object) -> Profile:
    times = [{"format": "epoch_s", "example": "1600000000"}]
    columns = {"time": "when", "message": "what", "session": "session"}
    values = {"name": "plain", "columns": columns, "times": times, "undo": {"mode": "keep"}, **change}
    return Profile.model_validate(values)


def dictionary(labels: dict[str, str], ids: dict[str, str] | None = None) -> Dictionary:
    ids = ids or {}
    rows = [(name, ids.get(name), label) for name, label in labels.items()]
    return Dictionary(
        pl.DataFrame(rows, schema=dict.fromkeys(("message", "command_id", "label"), pl.String), orient="row")
    )


def make_events(names: list[str], session: str = "s") -> pl.DataFrame:
    """One event a second."""
    times = [second * 1_000_000 for second in range(len(names))]
    rows = {"session_id": [session] * len(names), "item_id": names, "timestamp": times}
    return pl.DataFrame(rows).with_columns(merge_count=pl.lit(1, pl.Int64))


@pytest.fixture
def rules() -> Rules:
    return Rules(
        dropped_commands=["R", *ODD],
        redundancy=Redundancy(rows=2, seconds=1.5, pairs=[RedundantPair(high=ODD[0], low=ODD[1], drop="low")]),
        dictionary=dictionary({name: ODD[0] for name in ODD}, {ODD[0]: "Tool (7)"}),
        workflows=Workflows(merges=[X_Y], collapse=False),
    )


def test_saved_rules_are_read_as_they_were(rules, tmp_path):
    rules.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"rules.json", "command_dictionary.csv", "workflows.json"}
    read = Rules.load(tmp_path)
    assert read.dropped_commands == rules.dropped_commands
    assert read.redundancy == rules.redundancy
    assert read.workflows == rules.workflows
    assert read.dictionary is not None and rules.dictionary is not None
    assert read.dictionary.table.rows() == rules.dictionary.table.rows()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    read.save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_what_is_not_there_is_not_saved_nor_read(tmp_path):
    assert Rules.load(tmp_path) == NO_RULES
    NO_RULES.dropping(["R"]).save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["rules.json"]
    assert Rules.load(tmp_path) == Rules(dropped_commands=["R"])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rules.json", b"{", "cannot be read"),
        ("rules.json", b'{"dropped_commands": ["\xff"]}', "cannot be read"),
        ("rules.json", b'{"droped_commands": []}', "did you mean 'dropped_commands'"),
        ("rules.json", b'{"redundancy": {"pairs": [{"high": "A"}]}}', "redundancy.pairs.0.low"),
        ("rules.json", b"[]", "rules.json"),
        ("command_dictionary.csv", b"message,lable\nA,A\n", "column 'label' is missing (did you mean 'lable'?)"),
        ("workflows.json", b'{"merges": [{"name": "W", "constituents": ["A"]}]}', "merges.0.constituents"),
    ],
)
def test_damaged_rules_are_one_line_that_names_the_file(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((InputError, ConfigError)) as caught:
        Rules.load(tmp_path)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / name}: ") and expected in line and "\n" not in line


def test_rules_apply_in_their_order():
    """Each rule here needs what the one before it does, and would do harm before that."""
    names = ["A de", "A", "H de", "L", "H", "R", "L", "X", "R", "Y", "X", "R", "X"]
    rules = Rules(
        dropped_commands=["R"],
        redundancy=Redundancy(rows=1, seconds=30, pairs=[RedundantPair(high="H", low="L")]),
        dictionary=dictionary({"A": "A", "A de": "A", "H": "H", "H de": "H"}),
        workflows=Workflows(merges=[X_Y]),
    )
    funnel = Funnel()
    events = apply_rules(make_events(names), plain(), rules, funnel)
    # The first H, German, brings its L and leaves. Behind the second one stands R, which is rare but no L: it stays.
    # A A becomes one, and X R X once R has left; X R Y is a workflow only then.
    assert events["item_id"].to_list() == ["A", "L", "H", "L", "X and Y", "X"]
    assert events["merge_count"].to_list() == [2, 1, 1, 1, 2, 2]
    assert [t // 1_000_000 for t in events["timestamp"]] == [0, 3, 4, 6, 7, 10]
    assert [t // 1_000_000 for t in events["last_timestamp"]] == [0, 3, 4, 6, 9, 10]
    stages = {stage["stage"]: stage for stage in funnel.to_list()}
    assert list(stages) == ["align", "redundancy", "repeats after alignment", "rare", "repeats after rare"]
    assert stages["align"]["renamed"] == 2
    assert stages["align"]["not_in_dictionary"] == names.count("L") + sum(map(names.count, "RXY"))
    assert [(s["rows_in"], s["rows_out"]) for s in stages.values()] == [(13, 13), (13, 12), (12, 11), (11, 8), (8, 7)]


def test_repeats_stay_where_the_profile_keeps_them():
    names = ["A de", "A", "H", "L", "L", "R", "L"]
    rules = Rules(
        dropped_commands=["R"],
        redundancy=Redundancy(pairs=[RedundantPair(high="H", low="L")]),
        dictionary=dictionary({"A": "A", "A de": "A"}),
    )
    events = apply_rules(make_events(names), plain(collapse=False), rules, Funnel())
    assert events["item_id"].to_list() == ["A", "A", "L", "L", "L"]
    assert events["merge_count"].to_list() == [1] * 5


def test_no_rule_reaches_into_another_session():
    rules = Rules(
        dropped_commands=["R"],
        redundancy=Redundancy(pairs=[RedundantPair(high="H", low="L")]),
        dictionary=dictionary({"A": "A", "A de": "A"}),
        workflows=Workflows(merges=[X_Y]),
    )
    sessions = {"1": ["B", "A de"], "2": ["A", "H"], "3": ["L", "X", "R"], "4": ["Y", "X"], "5": ["R", "X"]}
    events = pl.concat([make_events(names, session) for session, names in sessions.items()])
    found = apply_rules(events, plain(), rules, Funnel()).select("session_id", "item_id").rows()
    assert found == [
        *[("1", "B"), ("1", "A"), ("2", "A"), ("2", "H"), ("3", "L")],
        *[("3", "X"), ("4", "Y"), ("4", "X"), ("5", "X")],
    ]


def test_without_rules_events_stay_as_they_are():
    events, funnel = make_events(["A", "A", "B"]), Funnel()
    assert apply_rules(events, plain(), NO_RULES, funnel).equals(events)
    assert funnel.to_list() == []


# The same rules, applied to a raw log when it is served.


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules") / "simulated"
    noise = NoiseConfig(short_session_rate=0.2, rare_rate=0.2)
    simulate(folder, users=25, sessions_per_user=4, seed=5, file_format="parquet", noise=noise, rows_per_file=6000)
    return folder / "logs"


@pytest.mark.parametrize("workflows", [False, True])
@pytest.mark.parametrize("rare", ["drop", "out_of_vocabulary"])
def test_a_raw_log_cleaned_with_the_saved_rules_gives_the_events_of_the_chain(rare, workflows, logs, tmp_path):
    profile = load_profile("vectorworks").model_copy(
        update={
            "rare": RareConfig(min_count=6, action=rare),
            "redundancy": RedundancyConfig(min_count=3, min_at_once=0, min_confidence=0.8),
            "workflows": WorkflowConfig(merges=30, min_count=5),
        }
    )
    result = clean(logs, profile, tmp_path / "out", workflows=workflows)
    expected, folder = result.events.collect(), result.path / "cleaning"
    rules, saved = Rules.load(folder), load_profile(folder / "profile.yaml")
    assert rules.dictionary is not None and (rules.dictionary.table["label"] != rules.dictionary.table["message"]).any()
    assert rules.redundancy is not None and len(rules.redundancy.pairs) > 5
    assert bool(rules.dropped_commands) == (rare == "drop")
    assert (rules.workflows is not None) == workflows == ("constituents" in expected.columns)
    if workflows:
        assert expected["constituents"].drop_nulls().len() > 100

    found = clean_logs(logs, saved, rules)
    kept = found.filter(pl.col("session_id").is_in(expected["session_id"].unique().implode()))
    assert kept.columns == expected.columns
    assert kept.equals(expected)
    others = found.filter(~pl.col("session_id").is_in(expected["session_id"].unique().implode()))
    if workflows:
        others = others.select("session_id", pl.coalesce("constituents", pl.concat_list("item_id")).alias("item_id"))
        others = others.explode("item_id")
    lengths = others.group_by("session_id").len()["len"]
    assert lengths.len() > 3 and lengths.max() < profile.min_length
