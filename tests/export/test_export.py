"""`recsys export` and `recsys verify` from a run to its answers."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recsys import cli
from recsys.cleaning.rules import Rules
from recsys.errors import ConfigError, InputError, RunError
from recsys.export import Exported, export
from recsys.export import bundle as module
from recsys.export.to_onnx import LEAST_BYTES
from recsys.inference import load, recommend
from recsys.run_directory import RunDirectory
from recsys.serving import require_onnxruntime
from recsys.serving.bundle import Bundle
from recsys.serving.graphs import Graph
from recsys.serving.integrity import MANIFEST, external_files, read_manifest, seal, sha256_of
from recsys.serving.verify import GOLDEN, verify
from tests.shared_bundle import shared_bundle
from tests.tiny_bundle import expect_offline_answers, make_rich_events
from tests.tiny_run import make_config, make_events, make_log_run, make_run

SMALL = {"backbone": {"name": "sasrec", "hidden_size": 8, "num_layers": 1, "num_heads": 2}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaMA over every kind of column."""
    return shared_bundle(tmp_path_factory).run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_bundle(tmp_path_factory).bundle


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SASRec over few columns."""
    inputs = {"embedding_size": 4, "fusion_size": 8, "fusion_heads": 2, "fusion": "sum"}
    config = make_config(inputs=inputs, **SMALL)
    return make_run(tmp_path_factory.mktemp("small"), make_events(sessions=12), config)[1]


@pytest.fixture(scope="module")
def small_bundle(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(small, tmp_path_factory.mktemp("small_bundle") / "b")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_answers_are_those_of_recommend(run: Path, folder: Path) -> None:
    """Of LLaMA; tests/export/test_backbones.py has the others."""
    expect_offline_answers(run, folder, make_rich_events(sessions=18))


def test_each_session_gets_its_k_and_bad_requests_one_line(folder: Path) -> None:
    bundle = Bundle.open(folder)
    golden = json.loads((folder / GOLDEN).read_text())["requests"]
    columns = [r["columns"] for r in golden[:3]]
    assert [len(a.items) for a in bundle.recommend(columns, [1, 14, 1000])] == [1, 14, 14]
    with pytest.raises(InputError, match=r"k \(0\) must be a whole number of at least 1"):
        bundle.recommend(columns, 0)
    with pytest.raises(InputError, match="the history is empty"):
        bundle.recommend([{**columns[0], "timestamp": []}])


def test_what_is_in_a_bundle(run: Path, folder: Path) -> None:
    manifest = read_manifest(folder)
    assert sorted(manifest["files"]) == sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST
    )
    assert {"embed.onnx", "rank.onnx", "fused.onnx", "weights.data", "schema.json"} < set(manifest["files"])
    assert manifest["items"] == 17 and manifest["reserved"] == 3 and manifest["max_length"] == 6
    assert manifest["versions"]["torch"] == torch.__version__ and manifest["int8"] is None
    assert manifest["weights_sha256"] == sha256_of(run / "model.safetensors")
    for name, described in manifest["graphs"].items():
        graph = Graph(folder, name)
        assert set(described["inputs"]) == {*graph.inputs, *graph.tables}
        shapes = {i.name: i.shape for i in (*graph.session.get_inputs(), *graph.session.get_outputs())}
        assert {n: d["shape"] for n, d in (described["inputs"] | described["outputs"]).items()} == shapes
        assert external_files((folder / f"{name}.onnx").read_bytes()) <= {"weights.data"}
        assert "/" + "/".join(run.parts[1:3]) not in (folder / f"{name}.onnx").read_text(errors="replace")
    assert manifest["graphs"]["rank"]["outputs"] == {
        "ids": {"dtype": "int64", "shape": ["batch", "k"]},
        "scores": {"dtype": "float32", "shape": ["batch", "k"]},
        "probabilities": {"dtype": "float32", "shape": ["batch", "k"]},
    }
    sizes = [(folder / f"{n}.onnx").stat().st_size for n in ("embed", "rank", "fused")]
    weights = (folder / "weights.data").stat().st_size
    assert weights >= LEAST_BYTES and sizes[2] < sum(sizes[:2]) + 4096
    golden = json.loads((folder / GOLDEN).read_text())
    lengths = [len(r["columns"]["timestamp"]) for r in golden["requests"]]
    assert {1, 6, 9} <= set(lengths) and len(golden["answers"]) == len(lengths) == 12


def test_golden_answers_are_those_of_the_run(run: Path, folder: Path) -> None:
    golden = json.loads((folder / GOLDEN).read_text())
    one = golden["requests"][4]
    kinds = {"timestamp": pl.Int64, "tags": pl.List(pl.String)}
    frame = pl.DataFrame({n: pl.Series(v, dtype=kinds.get(n)) for n, v in one["columns"].items()}, strict=False)
    lists = recommend(run, frame.with_columns(session_id=pl.lit("s"), note=pl.lit("")), k=golden["k"])
    assert golden["answers"][4]["items"] == lists["item_id"].to_list()
    np.testing.assert_allclose(golden["answers"][4]["scores"], lists["score"], rtol=1e-5)


def test_verify_replays(folder: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(folder).requests == 12 and verify(folder).difference < 1e-4
    assert cli.main(["verify", str(folder)]) == 0
    assert "12 golden requests have the answers of the export" in capsys.readouterr().out
    golden = json.loads((copy / GOLDEN).read_text())
    golden["answers"][2]["scores"][0] += 0.01
    (copy / GOLDEN).write_text(json.dumps(golden))
    values = read_manifest(copy)
    assert cli.main(["verify", str(copy)]) == 2
    assert "golden.json: has" in (told := capsys.readouterr().err) and told.count("\n") == 1
    values["files"][GOLDEN] = {"sha256": sha256_of(copy / GOLDEN), "bytes": (copy / GOLDEN).stat().st_size}
    (copy / MANIFEST).write_text(seal(values))
    assert cli.main(["verify", str(copy)]) == 2
    assert "golden request 3 (fused): place 1 has score" in capsys.readouterr().err


def test_one_changed_byte_of_each_file_is_refused(copy: Path) -> None:
    for file in [p for p in copy.rglob("*") if p.is_file()]:
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(InputError, match=file.name):
            Bundle.open(copy)
        file.write_bytes(data)
    Bundle.open(copy)


def test_onnxruntime_itself_opens_nothing_outside(folder: Path, copy: Path) -> None:
    data = (copy / "rank.onnx").read_bytes()
    outside = b"../w.dataxyz"
    assert data.count(b"weights.data") > 0 and len(outside) == len(b"weights.data")
    (copy / "rank.onnx").write_bytes(data.replace(b"weights.data", outside))
    shutil.copyfile(folder / "weights.data", copy.parent / "w.dataxyz")
    with pytest.raises(Exception, match="(?i)external|escapes|outside|path"):
        Graph(copy, "rank")


@pytest.mark.slow
def test_bundles_do_not_depend_on_when_they_are_made(small: Path, small_bundle: Exported, tmp_path: Path) -> None:
    shutil.copytree(small_bundle.path, tmp_path / "one")
    with pytest.raises(InputError, match="exists already; choose another --out or pass --overwrite"):
        export(small, tmp_path / "one")
    again = export(small, tmp_path / "one", overwrite=True)
    assert again.manifest == small_bundle.manifest and again.difference < 1e-4
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()
    with pytest.raises(InputError, match="did not write it"):
        export(small, tmp_path / "other", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "other"]


@pytest.mark.slow
def test_int8_says_what_it_changes(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "--run", str(small), "--out", str(tmp_path / "b"), "--int8"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"bundle: {tmp_path / 'b'}: sasrec, 13 items") and out[1].startswith("int8: scores differ")
    measured = read_manifest(tmp_path / "b")["int8"]
    assert 0 < measured["mean_score_difference"] <= measured["max_score_difference"] < 2
    assert measured["same_items"] > 0.8 and measured["requests"] == 100
    model = (tmp_path / "b" / "rank.onnx").read_bytes()
    assert b"MatMulInteger" in model or b"DynamicQuantizeLinear" in model
    assert cli.main(["verify", str(tmp_path / "b")]) == 0


def test_runs_that_cannot_be_exported_are_refused_by_name(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunDirectory(small).load_config()
    for update, message in (
        ({"kind": "cad"}, "runs of kind 'cad' cannot be exported; 'recommender' can"),
        ({"model": config.model.model_copy(update={"peft": config.model.peft.model_copy(update={"method": "qlora"})})},
         "'qlora' leaves a pretrained model outside of the run; first python -m peft_ext.merge --run"),
    ):  # fmt: skip
        changed = config.model_copy(update=update)
        monkeypatch.setattr(RunDirectory, "load_config", lambda self, changed=changed: changed)
        with pytest.raises(RunError) as raised:
            export(small, tmp_path / "b")
        assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [1, 2])
def test_runs_of_too_few_events_are_refused(length: int, tmp_path: Path) -> None:
    run = make_run(tmp_path, make_events(sessions=12), make_config(max_length=length, **SMALL))[1]
    with pytest.raises(RunError, match=rf"reads the newest {length} events only .*; train with 3 or more"):
        export(run, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_the_commit_stands_in_the_manifest(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "checkout"
    file = root / "recsys" / "export" / "bundle.py"
    file.parent.mkdir(parents=True)
    file.write_text("first")
    monkeypatch.setattr(module, "__file__", str(file))

    def git(*arguments: str) -> str:
        own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", "-C", root, *own, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def noted() -> object:
        folder = tmp_path / "empty"
        folder.mkdir(exist_ok=True)
        return module._manifest(load(small, device="cpu"), folder, {}, {}, None)["git_commit"]

    assert noted() is None  # no checkout
    git("init")
    assert noted() is None  # no commit yet
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    (root / "untracked").touch()
    assert len(commit) == 40 and noted() == commit
    file.write_text("second")
    assert noted() == f"{commit}+"
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    assert noted() is None  # no git


def test_nothing_is_left_where_an_export_fails(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr("recsys.export.models.to_onnx", fail)
    assert cli.main(["export", "--run", str(small), "--out", str(tmp_path / "b")]) == 2
    told = capsys.readouterr().err
    assert told == f"error: {small}: a run of backbone 'sasrec' cannot be exported: no such operator\n"
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["export", "--run", str(tmp_path / "none"), "--out", str(tmp_path / "b")]) == 2
    assert "no such run directory" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_what_answers_otherwise_is_not_written(
    small: Path, small_bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_graphs(model: object, columns: object, folder: Path, **_: object) -> dict[str, Any]:
        shutil.copytree(small_bundle.path / "tables", folder / "tables")
        for name in ("embed.onnx", "rank.onnx", "fused.onnx", "weights.data"):
            shutil.copyfile(small_bundle.path / name, folder / name)
        output = np.load(folder / "tables" / "output.npy")
        np.save(folder / "tables" / "output.npy", output * np.float32(1.01))
        return {}

    monkeypatch.setattr("recsys.export.models.write_graphs", other_graphs)
    with pytest.raises(RunError, match="does not answer as the run does: .*/b: golden request 1 .fused.: place 1"):
        export(small, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name.startswith("onnx") else object())
    with pytest.raises(ConfigError, match="needs the extra 'serve', of which onnx, onnxruntime, onnxscript is not"):
        export(small, tmp_path / "b")
    monkeypatch.setattr("recsys.serving.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"onnxruntime, which is not installed: pip install 'recsys\[serve\]'"):
        require_onnxruntime()


def test_the_cleaning_goes_along_without_its_report(small: Path, tmp_path: Path) -> None:
    run = make_log_run(small, tmp_path / "run", dropped=["rare"])
    (run / "cleaning" / "report.json").write_text('{"logs": "/home/someone"}')
    exported = export(run, tmp_path / "bundle")
    found = {name for name in exported.manifest["files"] if name.startswith("cleaning/")}
    assert found == {"cleaning/profile.yaml", "cleaning/rules.json"}
    assert Rules.load(tmp_path / "bundle" / "cleaning") == Rules(dropped_commands=["rare"])
