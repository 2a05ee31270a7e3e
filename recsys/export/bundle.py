"""`recsys export`: a run as a bundle, a folder that servers answer from without PyTorch."""

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import ConfigError, RunError, one_line
from recsys.inference import LoadedRun, load
from recsys.run_directory import RunDirectory
from recsys.runtime import atomic_folder, sha256_file
from recsys.serving.integrity import FORMAT, MANIFEST, VERSION, seal

GOLDEN_REQUESTS, GOLDEN_K = 12, 10
TOLERANCE = 1e-4
"""Scores of onnxruntime and of PyTorch differ by at most so much, or so much times the score where that is above 1."""
INT8_TOLERANCE = 0.02
"""The same between two machines with 8-bit weights, whose kernels round differently."""
LEAST_LENGTH = 3
"""Of a run: `torch.export` takes a length of 1 for fixed, and so one that can be 2 at most."""
_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_NO_RULE = shutil.ignore_patterns("report.json")  # which names folders of the machine that cleaned


@dataclass(frozen=True)
class Exported:
    """A bundle that was written and verified.

    Attributes:
        path: its folder.
        manifest: what its manifest.json says.
        difference: largest difference of a score from PyTorch's (8-bit weights: from those of the written bundle).
    """

    path: Path
    manifest: Mapping[str, Any]
    difference: float

    def lines(self) -> list[str]:
        """What a person should know of it."""
        size = sum(f["bytes"] for f in self.manifest["files"].values())
        items = self.manifest["items"] - self.manifest["reserved"]
        found = [
            f"bundle: {self.path}: {self.manifest['backbone']}, {items:,} items, {size / 1e6:,.1f} MB; "
            f"{GOLDEN_REQUESTS} golden requests hold, scores differ by at most {self.difference:.1e}"
        ]
        int8 = self.manifest["int8"]
        if int8 is not None:
            found.append(
                f"int8: scores differ from full precision by {int8['mean_score_difference']:.2g} on average and "
                f"{int8['max_score_difference']:.2g} at most; the first item is the same in {int8['same_first']:.0%} "
                f"of {int8['requests']} requests, {int8['same_items']:.0%} of the listed items are"
            )
        return found


def export(run: Path | str, out: Path | str, *, int8: bool = False, overwrite: bool = False) -> Exported:
    """Write a run as a bundle and check that it answers as the run does. `out` appears when all is written.

    Args:
        run: a finished run directory.
        out: folder to write.
        int8: weights of matrix products in 8 bits; the manifest says what that changes.
        overwrite: replace `out` if it is a bundle.

    Raises:
        ConfigError: the extra `serve` is not installed.
        RunError: the run is unfinished, of a kind that cannot be served this way, or leaves a pretrained model outside
            of it (`peft_ext.merge` takes it in); or what was exported answers otherwise.
        InputError: `out` exists.
    """
    require_extra()
    directory = RunDirectory(Path(run))
    require_exportable(directory)
    with atomic_folder(Path(out), replace=overwrite, markers=(MANIFEST, "transform.json")) as folder:
        loaded = load(run, device="cpu")
        return _write(loaded, folder, Path(out), int8)


def require_extra() -> None:
    """Raise ConfigError unless what ONNX files are made with is installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"export needs the extra 'serve', of which {', '.join(missing)} is not installed: "
            "pip install 'recsys[serve]' (in a checkout: bash scripts/setup.sh serve)"
        )


def require_exportable(run: RunDirectory) -> None:
    """Raise RunError for a run that cannot be served as ONNX graphs; says why not."""
    config = run.load_config()
    if config.kind != "recommender":
        raise RunError(f"{run.path}: runs of kind '{config.kind}' cannot be exported; 'recommender' can")
    if config.model.peft.freezes:
        fix = f"python -m peft_ext.merge --run {run.path} --out MERGED, then export that"
        method = config.model.peft.method
        raise RunError(f"{run.path}: '{method}' leaves a pretrained model outside of the run; first {fix}")
    if config.model.max_length < LEAST_LENGTH:
        raise RunError(
            f"{run.path}: reads the newest {config.model.max_length} events only (model.max_length), of which no graph "
            f"of any length can be made; train with {LEAST_LENGTH} or more"
        )


def _write(run: LoadedRun, folder: Path, out: Path, int8: bool) -> Exported:
    from recsys.export.facts import facts_of
    from recsys.export.golden import make_requests, offline_answers
    from recsys.export.graphs import event_columns
    from recsys.export.models import write_graphs
    from recsys.serving.transform import Transform
    from recsys.serving.verify import GOLDEN, verify

    once = frozenset(c.name for c in run.schema.columns if c.scope.value == "sequence")
    columns = event_columns(run.model.inputs, once)
    facts, vocabularies = facts_of(run, columns)
    transform = Transform(facts, vocabularies)
    files = {name: f"vocabularies/{n}-{_plain_name(name)}.json" for n, name in enumerate(vocabularies)}
    (folder / "vocabularies").mkdir()
    for name, values in vocabularies.items():
        _write_json(folder / files[name], values)
    _write_json(folder / "transform.json", {**facts, "vocabularies": files})
    _write_json(folder / "items.json", _item_texts(run))
    shutil.copyfile(run.directory.schema_file, folder / "schema.json")
    if run.directory.cleaning.is_dir():
        shutil.copytree(run.directory.cleaning, folder / "cleaning", ignore=_NO_RULE)
    requests = make_requests(transform, vocabularies, GOLDEN_REQUESTS)
    answers = offline_answers(run, transform, requests, GOLDEN_K)  # before the model is made ready for the export
    try:
        graphs = write_graphs(run.model, columns, folder, int8=int8)
    except Exception as error:  # the exporters raise what they like
        backbone = run.config.model.backbone.name
        raise RunError(f"{run.path}: a run of backbone '{backbone}' cannot be exported: {one_line(error)}") from error
    measured = None
    if int8:
        from recsys.export.precision import int8_answers

        measured, answers = int8_answers(run, folder, transform, vocabularies, requests, GOLDEN_K)
    golden = {"k": GOLDEN_K, "requests": requests, "answers": [asdict(answer) for answer in answers]}
    _write_json(folder / GOLDEN, golden)
    manifest = _manifest(run, folder, transform.raw, graphs, measured)
    (folder / MANIFEST).write_text(seal(manifest), encoding="utf-8")
    try:
        verified = verify(folder)
    except ValueError as error:
        said = str(error).replace(str(folder), str(out))
        raise RunError(f"{run.path}: what was exported does not answer as the run does: {said}") from error
    return Exported(out, verified.manifest, verified.difference)


def _manifest(
    run: LoadedRun, folder: Path, raw: Mapping[str, str], graphs: Mapping[str, Any], int8: Mapping[str, Any] | None
) -> dict[str, Any]:
    config, item = run.config.model, run.schema.item()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": run.config.kind,
        "backbone": config.backbone.name,
        "masking": config.masking,
        "fusion": config.inputs.fusion,
        "max_length": run.max_length,
        "items": item.num_ids(),
        "reserved": item.first_id,
        "requests": dict(raw),
        "graphs": graphs,
        "tolerance": TOLERANCE if int8 is None else INT8_TOLERANCE,
        "int8": int8,
        "weights_sha256": sha256_file(run.directory.weights),
        "git_commit": git_commit(),
        "versions": versions(),
        "files": {
            path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
            for path in files
        },
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that an export depends on."""
    names = ("recsys", "torch", "transformers", "numpy", *_NEEDED)
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def git_commit() -> str | None:
    """Commit of the checkout that this program runs from, with ``+`` where it has changes; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    commit = _git(root, "rev-parse", "HEAD")
    return commit and commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _plain_name(name: str) -> str:
    """A column's name as it may stand in the name of a file anywhere."""
    return re.sub(r"[^\w-]", "_", name)[:50]


def _item_texts(run: LoadedRun) -> dict[str, list[str | None]]:
    """Texts of the items (descriptions) by column, one an id."""
    items, names = run.workflow.items, run.workflow.plan.item_text
    return {name: items[name].to_list() for name in names if name in items.columns}


def _write_json(path: Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, default=_plain)
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")
