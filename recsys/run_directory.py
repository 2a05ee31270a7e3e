"""What a run saves, written and read in one place.

::

    RUN/config.yaml        the whole configuration; rerunning it gives the same figures
    RUN/schema.json        columns and ids
    RUN/workflow/          fitted ETL (JSON and Parquet)
    RUN/cleaning/          cleaning profile and fitted rules, where the data came from raw logs
    RUN/model.safetensors  weights of the best checkpoint
    RUN/history.json       loss and validation figures over steps
    RUN/memory.json        memory of training, planned and measured
    RUN/metrics.json       figures of `recsys evaluate`
    RUN/dataset.json       report of the sequence dataset: splits, counts, what was dropped
    RUN/environment.json   versions, command, seed, data hash
    RUN/checkpoints/       private to training: resumed from, never published
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.config import RunConfig, parse, read_yaml, save_config
from recsys.errors import RunError
from recsys.runtime import atomic_file, read_json, sha256_file
from recsys.schema import Schema


def dataset_fingerprint(dataset: Path) -> str:
    """SHA-256 over the names and SHA-256 of ``schema.json`` and every Parquet file of a sequence dataset."""
    digest = hashlib.sha256()
    for file in [dataset / "schema.json", *sorted(dataset.rglob("*.parquet"))]:
        digest.update(f"{file.relative_to(dataset).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class RunDirectory:
    """Paths and contents of one run."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The whole configuration."""
        return self.path / "config.yaml"

    @property
    def schema_file(self) -> Path:
        """Columns and ids."""
        return self.path / "schema.json"

    @property
    def workflow(self) -> Path:
        """Fitted ETL."""
        return self.path / "workflow"

    @property
    def cleaning(self) -> Path:
        """Cleaning profile and fitted rules."""
        return self.path / "cleaning"

    @property
    def weights(self) -> Path:
        """Weights of the best checkpoint."""
        return self.path / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        """What training resumes from."""
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        """Figures of the last evaluation."""
        return self.path / "metrics.json"

    @property
    def history_file(self) -> Path:
        """Loss and validation figures over steps."""
        return self.path / "history.json"

    @property
    def memory_file(self) -> Path:
        """Memory of training, planned and measured."""
        return self.path / "memory.json"

    @property
    def environment_file(self) -> Path:
        """Versions, command, seed, data hash."""
        return self.path / "environment.json"

    @property
    def dataset_report(self) -> Path:
        """The report of the sequence dataset."""
        return self.path / "dataset.json"

    def create(self, config: RunConfig, schema: Schema, dataset: Path) -> None:
        """Make the folder with everything known before training, copied from the sequence dataset."""
        self.path.mkdir(parents=True, exist_ok=True)
        save_config(config, self.config_file)
        schema.save(self.schema_file)
        for name in ("workflow", "cleaning"):
            if (dataset / name).is_dir():
                shutil.copytree(dataset / name, self.path / name, dirs_exist_ok=True)
        if (dataset / "report.json").is_file():
            shutil.copyfile(dataset / "report.json", self.dataset_report)

    def load_config(self) -> RunConfig:
        """The configuration the run was trained with."""
        self.require(self.config_file)
        return parse(RunConfig, read_yaml(self.config_file), self.config_file)

    def load_schema(self) -> Schema:
        """The schema the run was trained with."""
        return Schema.load(self.schema_file)

    def require(self, file: Path) -> Path:
        """Return `file` of this run, or say what is missing and how it comes about."""
        if self.path.is_file():
            raise RunError(f"{self.path}: is a file; name the run directory that `recsys train` wrote")
        if not self.path.is_dir():
            raise RunError(f"{self.path}: no such run directory; `recsys train --out {self.path}` makes one")
        if not file.exists() and (self.path / "train").is_dir():
            raise RunError(f"{self.path}: is a sequence dataset, not a run; `recsys train` makes one of it")
        if not file.exists():
            raise RunError(f"{self.path}: {file.name} is missing, so this is no finished run; train it again")
        return file

    def require_own_data(self, dataset: Path) -> None:
        """Raise unless `dataset` is what the run was trained on: another one's test split may hold training users."""
        if not self.environment_file.is_file():
            return
        if self.data_hash() != dataset_fingerprint(dataset):
            raise RunError(
                f"{dataset}: is not the dataset that {self.path} was trained on, so users of its training split may be "
                "among those scored; give the run's own, or pass --out DIR to measure all the same"
            )

    def write_json(self, file: Path, values: Any) -> None:
        """Write JSON so that a reader sees the old file or the new one, never half of it."""
        with atomic_file(file) as work:
            work.write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")

    def read_json(self, file: Path) -> dict[str, Any]:
        """Read one of the run's JSON files."""
        return read_json(self.require(file), RunError, "write it again with `recsys train` or `evaluate`")

    def data_hash(self) -> str:
        """`dataset_fingerprint` of what the run was trained on, as environment.json has it."""
        noted = self.read_json(self.environment_file).get("dataset")
        found = noted.get("sha256") if isinstance(noted, dict) else None
        if not isinstance(found, str):
            raise RunError(f"{self.environment_file}: has no dataset.sha256 (damaged?); train the run again")
        return found
