"""Write the model repository of NVIDIA Triton that answers as a bundle does.

    recsys export --run out/run --out out/bundle
    python -m deployment.export_triton --bundle out/bundle --out out/model_repository

Models: `transform`, `embed`, `rank` and `decode`, which `ensemble` joins, and `fused`, which is all of them in one and
answers sooner. `ensemble` and `fused` take and give the same tensors. Each model runs in Triton's Python backend with
numpy and onnxruntime only, holds its own part of the bundle and checks the hashes of it when it is loaded.
"""

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deployment.triton_config import Signature, Tensor, ensemble, model
from deployment.triton_rank import write_rank
from recsys.errors import ConfigError, InputError
from recsys.runtime import atomic_folder, command_line
from recsys.serving import integrity, require_onnxruntime, wire
from recsys.serving.transform import Transform

Array = npt.NDArray[Any]
STEPS = ("transform", "embed", "rank", "decode", "fused")
JOINED = ("embed", "rank", "fused")
"""Steps with a graph, of which Triton may join several requests into one batch."""
ENSEMBLE = "ensemble"
BACKENDS = ("python", "onnxruntime")
COPIES = ("transform.py", "graphs.py", "integrity.py", "wire.py")
WARM_UP = 5
"""Golden requests that each model runs before it is ready: one event, and more than the model reads, among them."""
_MODEL = Path(__file__).parent / "triton_model" / "model.py"
_RAW = {kind: f"TYPE_{kind}" for kind in ("INT32", "INT64", "FP32", "FP64", "BOOL")} | {"BYTES": "TYPE_STRING"}
_TYPES = {"int64": "TYPE_INT64", "float32": "TYPE_FP32"}
ANSWER = [Tensor(name, _RAW[kind], (-1,)) for name, kind in wire.OUTPUTS.items()]
IDS = [Tensor("ids", "TYPE_INT64", (-1,)), *ANSWER[1:]]


@dataclass(frozen=True)
class Settings:
    """How the models are run.

    Attributes:
        version: folder of the models; Triton serves the highest number.
        instances: of each model, side by side.
        threads: of each instance, on one batch.
        most: sessions that run as one batch.
        delay: microseconds for which a request may wait for others to join its batch.
        rank_backend: `python`, or `onnxruntime` where the Triton has that (the one of `deployment.triton` has not).
    """

    version: int = 1
    instances: int = 1
    threads: int = 1
    most: int = 64
    delay: int = 0
    rank_backend: str = "python"

    def __post_init__(self) -> None:
        for name, least in (("version", 1), ("instances", 1), ("threads", 1), ("most", 1), ("delay", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} ({getattr(self, name)}) must be at least {least}")
        if self.rank_backend not in BACKENDS:
            raise ConfigError(f"rank backend '{self.rank_backend}' is unknown; known: {', '.join(BACKENDS)}")


def export_triton(
    bundle: Path | str, out: Path | str, settings: Settings | None = None, *, overwrite: bool = False
) -> Path:
    """Write the repository; returns its folder.

    Raises:
        InputError: the bundle is not what was exported, or `out` exists.
    """
    require_onnxruntime()
    bundle, out, settings = Path(bundle), Path(out), settings or Settings()
    try:
        manifest = integrity.check(bundle)
    except integrity.BundleError as error:
        raise InputError(str(error)) from error
    transform = Transform.load(bundle)
    fields = wire.fields_of(transform.raw, {c.source for c in transform.columns if c.once})
    samples = golden_tensors(bundle, transform, fields)
    signatures = signatures_of(manifest, fields)
    with atomic_folder(out, replace=overwrite, markers=(integrity.MANIFEST,)) as work:
        for step in STEPS:
            _write_step(work / step, step, bundle, manifest, signatures[step], samples, settings)
        joined = ensemble(ENSEMBLE, signatures["fused"], {s: signatures[s] for s in STEPS[:-1]}, settings.most)
        _write(work / ENSEMBLE / "config.pbtxt", joined)
        (work / ENSEMBLE / str(settings.version)).mkdir()
        _write(work / ENSEMBLE / str(settings.version) / "README", "An ensemble has no files of its own.\n")
        files = {path.relative_to(work).as_posix(): path for path in sorted(work.rglob("*")) if path.is_file()}
        _write(work / integrity.MANIFEST, _sealed(manifest, files))
    return out


def signatures_of(manifest: Mapping[str, Any], fields: Sequence[wire.Field]) -> dict[str, Signature]:
    """Inputs and outputs of each model."""
    raw = [Tensor(f.name, _RAW[wire.KINDS[f.kind]], (1 if f.once else -1,)) for f in fields]
    raw += [Tensor(n, _RAW[kind], (1,), optional=n == wire.REMOVE_SEEN) for n, kind in wire.CONTROLS.items()]
    graphs = {name: _described(manifest["graphs"][name]) for name in ("embed", "rank", "fused")}
    (embed, vectors), (rank, _), (encoded, _) = graphs["embed"], graphs["rank"], graphs["fused"]
    return {
        "transform": (raw, encoded),
        "embed": (embed, vectors),
        "rank": (rank, IDS),
        "decode": (IDS[:1], ANSWER[:1]),
        "fused": (raw, ANSWER),
    }


def golden_tensors(bundle: Path, transform: Transform, fields: Sequence[wire.Field]) -> list[dict[str, Array]]:
    """What passes between the models, by tensor, for each of the first golden requests; raw ``k`` is ``raw.k``."""
    from recsys.serving.graphs import Graph, Tables
    from recsys.serving.verify import read_golden

    tables = Tables(bundle)
    embed, rank = (Graph(bundle, name, tables) for name in ("embed", "rank"))
    requests, _, k = read_golden(bundle)
    found = []
    for golden in requests[:WARM_UP]:
        raw = {wire.REMOVE_SEEN: np.zeros((1, 1), dtype=np.bool_)}
        raw |= wire.to_tensors(fields, [golden["columns"]], k, golden["remove_seen"])
        session = transform.encode(golden["columns"], remove_seen=golden["remove_seen"])
        batch = transform.collate([session], k)
        batch |= embed.run(batch)
        batch |= rank.run(batch)
        plain = {name: values[:, None] if values.ndim == 1 else values for name, values in batch.items()}
        found.append({**plain, **{f"raw.{name}": values for name, values in raw.items()}})
    return found


def _described(graph: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """A graph's inputs but its tables, and its outputs, as Triton sees them: every tensor has a batch and more."""
    both = []
    for part in ("inputs", "outputs"):
        tensors = []
        for name, facts in graph[part].items():
            shape = facts["shape"][1:]
            if not name.startswith("table."):
                dims = tuple(s if isinstance(s, int) else -1 for s in shape) or (1,)
                tensors.append(Tensor(name, _TYPES[facts["dtype"]], dims))
        both.append(tensors)
    return both[0], both[1]


def _write_step(
    folder: Path,
    step: str,
    bundle: Path,
    manifest: Mapping[str, Any],
    signature: Signature,
    samples: Sequence[Mapping[str, Array]],
    settings: Settings,
) -> None:
    version = folder / str(settings.version)
    backend = settings.rank_backend if step == "rank" else "python"
    if backend == "python":
        version.mkdir(parents=True)
        shutil.copyfile(_MODEL, version / "model.py")
        for name in COPIES:
            shutil.copyfile(Path(integrity.__file__).parent / name, version / name)
        # A file where Python would make a folder: Triton's interpreter heeds no variable that forbids compiled files,
        # and those would be code that no hash covers.
        _write(version / "__pycache__", "Keeps compiled files out of here.\n")
        _write_part(version / "bundle", step, bundle, manifest)
    else:
        write_rank(bundle, version)
        signature = [replace(t, flat=t.dims == (1,)) for t in signature[0]], signature[1]
    warm = []
    raw = step in ("transform", "fused")
    for n, sample in enumerate(samples):
        given = {t.name: sample[f"raw.{t.name}" if raw else t.name] for t in signature[0]}
        warm.append({t: (v, _write_tensor(folder, f"{n}-{place}", v)) for place, (t, v) in enumerate(given.items())})
    config = model(
        step,
        backend,
        *signature,
        warm=warm,
        instances=settings.instances,
        threads=settings.threads,
        most=settings.most,
        delay=settings.delay if step in JOINED else None,
    )
    _write(folder / "config.pbtxt", config)


def _write_part(folder: Path, step: str, bundle: Path, manifest: Mapping[str, Any]) -> None:
    """The files of the bundle that one step reads, under a manifest of their own."""
    wanted = {name: bundle / name for name in _files_of(step, bundle, manifest)}
    for name, source in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _link(source, folder / name, folder.parents[2])
    part = {**manifest, "bundle_sha256": manifest["sha256"]}
    _write(folder / integrity.MANIFEST, _sealed(part, wanted, manifest["files"]))


def _files_of(step: str, bundle: Path, manifest: Mapping[str, Any]) -> list[str]:
    texts = ["transform.json", *(name for name in manifest["files"] if name.startswith("vocabularies/"))]
    if step in ("transform", "decode"):
        return texts
    graph = manifest["graphs"][step]
    tables = [f"tables/{name.removeprefix('table.')}.npy" for name in graph["inputs"] if name.startswith("table.")]
    weights = sorted(integrity.external_files((bundle / graph["file"]).read_bytes()))
    return [graph["file"], *weights, *tables, *([*texts, "golden.json"] if step == "fused" else [])]


def _link(source: Path, target: Path, work: Path) -> None:
    """Copy a file into the repository once; other models that hold it share its bytes where the disk can do that."""
    name = target.relative_to(next(p for p in target.parents if p.name == "bundle"))
    for other in work.glob(f"*/*/bundle/{name.as_posix()}"):
        try:
            os.link(other, target)
            return
        except OSError:
            break
    shutil.copyfile(source, target)


def _write_tensor(folder: Path, file: str, values: Array) -> str:
    """Write a tensor of a warm-up request as Triton reads it; returns the file's name."""
    (folder / "warmup").mkdir(exist_ok=True)
    if values.dtype == object:
        data = b"".join(len(v).to_bytes(4, "little") + v for v in values.reshape(-1).tolist())
    else:
        data = np.ascontiguousarray(values).tobytes()
    (folder / "warmup" / file).write_bytes(data)
    return file


def _sealed(manifest: Mapping[str, Any], files: Mapping[str, Path], known: Mapping[str, Any] | None = None) -> str:
    facts = known or {n: {"sha256": integrity.sha256_of(p), "bytes": p.stat().st_size} for n, p in files.items()}
    return integrity.seal({**manifest, "files": {name: facts[name] for name in files}})


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the repository."""
    parser = argparse.ArgumentParser(
        prog="python -m deployment.export_triton",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, required=True, help="what `recsys export` wrote")
    parser.add_argument("--out", type=Path, required=True, help="model repository to write")
    parser.add_argument("--model-version", type=int, default=1, help="number of the version (default: 1)")
    parser.add_argument("--instances", type=int, default=1, help="of each model (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="of each instance, where cores are idle (default: 1)")
    parser.add_argument("--max-batch-size", type=int, default=64, help="sessions that run together (default: 64)")
    parser.add_argument("--queue-delay", type=int, default=0, help="microseconds to wait for a batch (default: 0)")
    parser.add_argument(
        "--rank-backend", default="python", help="python, or onnxruntime where your Triton has it (default: python)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a repository")
    given = parser.parse_args(arguments)
    sizes = (given.model_version, given.instances, given.threads, given.max_batch_size, given.queue_delay)
    settings = Settings(*sizes, given.rank_backend)
    print(f"model repository: {export_triton(given.bundle, given.out, settings, overwrite=given.overwrite)}")
    print(f"models: {', '.join(STEPS[:-1])}, joined as ensemble; fused: all in one")
    print(f"next: python -m deployment.triton --repository {given.out}")


if __name__ == "__main__":
    raise SystemExit(main())
