"""One YAML for a whole run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, Field

from recsys.config.base import StrictModel, override, parse, read_yaml
from recsys.config.etl import EtlConfig, SplitConfig
from recsys.config.model import ModelConfig
from recsys.config.training import EvaluationConfig, TrainingConfig


class RunConfig(StrictModel):
    """One YAML for a whole run: cleaning profile, split, ETL, model, training, evaluation."""

    kind: Literal["recommender"] = "recommender"
    seed: int = 0
    profile: str | None = None  # cleaning profile: a built-in name or a path
    split: SplitConfig = Field(default_factory=SplitConfig)
    etl: EtlConfig = Field(default_factory=EtlConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)


def load_config(path: Path | str | None, settings: Sequence[str] = ()) -> RunConfig:
    """Read a run's configuration from YAML (all defaults without `path`) and apply ``key=value`` settings."""
    values = read_yaml(Path(path)) if path else {}
    return parse(RunConfig, override(values, settings), path or "--set")


def save_config(config: BaseModel, path: Path) -> None:
    """Write every value, defaults included, so that the file alone repeats the run."""
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
