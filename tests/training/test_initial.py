"""A trained run's weights in a model of more items: old items score as they did; what does not fit is refused."""

import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from recsys.build import build_model
from recsys.cli import main
from recsys.config import RunConfig, save_config
from recsys.data.batch import Batch
from recsys.errors import RunError, SchemaError
from recsys.etl import Etl, Extension, Workflow, preprocess
from recsys.recommender import Recommender
from recsys.run_directory import RunDirectory
from recsys.schema import Column, Kind, Schema, Scope
from recsys.training import train
from recsys.training.initial import require_extension, start_from
from tests.tiny_run import make_commands, make_config, make_events, make_run

OLD_ITEMS, NEW_ITEMS = 14, 17


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset/, run/ and extended/, whose events have three further items."""
    folder = tmp_path_factory.mktemp("grown")
    make_run(folder, config=make_config(bias=True))
    extend_to(folder / "extended", folder / "run")
    return folder


def extend_to(out: Path, run: Path, seed: int = 5) -> None:
    events = make_events(items=NEW_ITEMS, seed=seed)
    preprocess(events, make_config(), out, commands=make_commands(NEW_ITEMS), blank=Extension.of(run), overwrite=True)


def fresh(data: Path, config: RunConfig, seed: int = 1) -> Recommender:
    torch.manual_seed(seed)
    items = pl.read_parquet(data / "workflow" / "items.parquet")
    return build_model(config.model, Schema.load(data / "schema.json"), items).eval()


@torch.no_grad()
def scores(model: Recommender, items: int) -> torch.Tensor:
    """``[4, V]`` scores behind four random histories of old items."""
    generator = torch.Generator().manual_seed(0)
    inputs = {"inputs.item_id": torch.randint(1, 3 + items, (4, 6), generator=generator)}
    for name in ("timestamp_interval", "merge_count"):
        inputs[f"inputs.{name}"] = torch.randn(4, 6, generator=generator)
    batch = Batch({**inputs, "lengths": torch.full((4,), 6), "row_id": torch.arange(4)})
    return model.item_scores(model.hidden(batch)[:, -1])


@pytest.mark.parametrize("tied", [True, False])
def test_old_items_score_as_before_and_new_rows_are_fresh(tied: bool, tmp_path: Path) -> None:
    config = make_config(tied=tied, bias=True)
    old_data, run = make_run(tmp_path, config=config)
    extend_to(tmp_path / "extended", run)
    before = fresh(old_data, config)
    before.load_state_dict(load_file(run / "model.safetensors"))
    model, untouched = (fresh(tmp_path / "extended", config) for _ in range(2))
    start_from(model, run, tmp_path / "extended")
    found, expected = scores(model, OLD_ITEMS), scores(before, OLD_ITEMS)
    assert found.shape == (4, 3 + NEW_ITEMS) and expected.shape == (4, 3 + OLD_ITEMS)
    torch.testing.assert_close(found[:, : 3 + OLD_ITEMS], expected, rtol=1e-5, atol=1e-6)
    old, new, start = before.state_dict(), model.state_dict(), untouched.state_dict()
    assert new.keys() == old.keys()
    grew = {name for name in new if new[name].shape != old[name].shape}
    tables = {"inputs.attributes", "inputs.embeddings.item_id.weight", "heads.item_id.bias"}
    assert grew == tables | (set() if tied else {"heads.item_id.weight"})
    for name, tensor in new.items():
        rows = len(old[name]) if tensor.ndim else 0
        torch.testing.assert_close(tensor[:rows] if rows else tensor, old[name], rtol=0, atol=0)
        if name in grew:
            torch.testing.assert_close(tensor[rows:], start[name][rows:], rtol=0, atol=0)
    assert torch.isfinite(found[:, 3:]).all()


def test_the_same_dataset_gives_the_run_again(grown: Path) -> None:
    config = make_config(bias=True)
    model = fresh(grown / "dataset", config)
    start_from(model, grown / "run", grown / "dataset")
    for name, tensor in load_file(grown / "run" / "model.safetensors").items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_training_goes_on_from_the_run_and_says_so(grown: Path, tmp_path: Path) -> None:
    config = make_config(bias=True)
    training = config.training.model_copy(update={"max_steps": 1, "learning_rate": 1e-9, "threads": 1})
    save_config(config.model_copy(update={"training": training}), tmp_path / "config.yaml")
    flags = ["--data", grown / "extended", "--config", tmp_path / "config.yaml", "--init-from", grown / "run"]
    assert main(["train", *map(str, flags), "--out", str(tmp_path / "on")]) == 0
    run = RunDirectory(tmp_path / "on")
    noted = run.read_json(run.environment_file)["init_from"]
    assert noted["path"] == str(grown / "run") == run.load_config().training.init_from and len(noted["sha256"]) == 64
    old, new = load_file(grown / "run" / "model.safetensors"), load_file(run.weights)
    for name in ("inputs.embeddings.item_id.weight", "inputs.output.weight"):
        torch.testing.assert_close(new[name][: len(old[name])], old[name], rtol=0, atol=1e-5)
    # The run of the new data is a run like any other, and can be gone on from.
    assert train(grown / "extended", run.load_config(), run.path, resume=True).path == run.path
    weights = grown / "run" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(RunError, match="cannot resume: .*run is not what it was when the run started"):
        train(grown / "extended", run.load_config(), run.path, resume=True)
    weights.write_bytes(kept)


def fitted(items: str, **more: object) -> Workflow:
    rows = [("s", n, item, cat) for n, (item, cat) in enumerate(zip(items, "xyz" * len(items), strict=False))]
    events = pl.DataFrame(rows, schema=["session_id", "timestamp", "item_id", "cat"], orient="row")
    steps = Etl().categorical("item_id").categorical("cat", hash_buckets=int(more.get("buckets", 0)))
    if "zone" in more:
        steps = steps.time("hour", zone=str(more["zone"]))
    if "log1p" in more:
        steps = steps.interval(log1p=bool(more["log1p"]))
    return Workflow(steps.config()).fit(events.with_columns(pl.col("timestamp") * 10**6))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (fitted("aab"), fitted("bba"), "DATA: column 'item_id', id 3: 'b' here, 'a' in RUN; make the data with"),
        (fitted("aabbc"), fitted("aab"), "DATA: column 'item_id', id 5: no value here, 'c' in RUN"),
        (fitted("aa", buckets=2), fitted("aa"), "'cat': 2 values and 0 hash buckets here, 2 and 2 in RUN"),
        (fitted("aa", buckets=2), fitted("aab", buckets=2), "'cat': 3 values and 2 hash buckets here, 2 and 2 in RUN"),
        (fitted("a", zone="UTC"), fitted("a", zone="Asia/Tokyo"), "'hour' is in Asia/Tokyo here, in UTC in RUN"),
        (fitted("a", zone="UTC"), fitted("a"), "column 'hour' is missing, which RUN was trained with"),
        (fitted("aa", log1p=True), fitted("aa"), "column 'timestamp_interval' is missing"),
        (fitted("aa", log1p=True), fitted("aa", log1p=False), "is zscore here, log1p zscore in RUN"),
    ],
)
def test_what_is_no_extension_is_named(old: Workflow, new: Workflow, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as error:
        require_extension(old.fitted, new.fitted, "RUN", "DATA")
    assert "\n" not in str(error.value)


def test_other_statistics_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    require_extension(fitted("aa", log1p=True).fitted, fitted("aab", log1p=True).fitted, "RUN", "DATA")
    assert "note: column 'timestamp_interval': other statistics than RUN was trained with (mean" in (
        capsys.readouterr().err
    )


def test_another_model_and_other_attributes_are_refused(grown: Path, tmp_path: Path) -> None:
    wider = make_config(bias=True, inputs={"embedding_size": 12, "fusion_size": 16, "fusion_heads": 2})
    with pytest.raises(RunError, match=r"item_id.weight' is \[17, 8\] there, \[20, 12\] here; give the run's own"):
        start_from(fresh(grown / "extended", wider), grown / "run", grown / "extended")
    with pytest.raises(RunError, match="tensor 'heads.item_id.bias' is only in the run"):
        start_from(fresh(grown / "extended", make_config()), grown / "run", grown / "extended")
    model = fresh(grown / "extended", make_config(bias=True))
    model.inputs.attributes[6, 0] += 1
    with pytest.raises(RunError, match="item id 6 has other attributes in the data than in the run"):
        start_from(model, grown / "run", grown / "extended")
    with pytest.raises(RunError, match=r"model\.safetensors is missing"):
        (tmp_path / "empty").mkdir()
        start_from(model, tmp_path / "empty", grown / "extended")


def test_text_vectors_of_old_items_are_the_runs(grown: Path, tmp_path: Path) -> None:
    config = make_config(bias=True)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(3 + NEW_ITEMS, 5, generator=generator)
    table[:3] = 0

    def built(data: Path, vectors: torch.Tensor) -> Recommender:
        schema = Schema.load(data / "schema.json")
        column = Column(name="text", kind=Kind.PRETRAINED, scope=Scope.ITEM, dtype="float32", dimension=5)
        items = pl.read_parquet(data / "workflow" / "items.parquet")
        return build_model(config.model, Schema(columns=[*schema.columns, column]), items, vectors)

    run = tmp_path / "run"
    shutil.copytree(grown / "run", run)
    save_file(built(grown / "dataset", table[: 3 + OLD_ITEMS]).state_dict(), run / "model.safetensors")
    model = built(grown / "extended", table + 1e-6)  # rounded otherwise, by another batch
    start_from(model, run, grown / "extended")
    assert torch.equal(model.inputs.pretrained.table[: 3 + OLD_ITEMS], table[: 3 + OLD_ITEMS])
    assert torch.equal(model.inputs.pretrained.table[3 + OLD_ITEMS :], table[3 + OLD_ITEMS :] + 1e-6)
    with pytest.raises(RunError, match="item id 4 has another text vector in the data than in the run"):
        table[4] += 0.1
        start_from(built(grown / "extended", table), run, grown / "extended")


def test_a_run_says_that_data_extend_it(grown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["evaluate", "--run", str(grown / "run"), "--data", str(grown / "extended")])
    said = capsys.readouterr().err
    assert status == 2 and said.count("\n") == 1
    assert "column 'item_id' extends the run's 17 ids to 20 (train --init-from RUN); preprocess with --workflow" in said
