"""A run directory back in memory: configuration, schema, workflow and the model with its weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from recsys.build import build_model
from recsys.config import RunConfig
from recsys.errors import RecsysError, RunError, one_line
from recsys.etl import Workflow
from recsys.recommender import Recommender, own_state, read_weights, require_base
from recsys.run_directory import RunDirectory
from recsys.schema import Kind, Schema


@dataclass(frozen=True, repr=False)
class LoadedRun:
    """A trained run, ready to evaluate and to recommend.

    Attributes:
        path: the run directory.
        config: what it was trained with.
        schema: the columns and ids that the model reads.
        workflow: fitted ETL; turns new events into what the model reads.
        model: in evaluation mode, on the device that `load` chose.
    """

    path: Path
    config: RunConfig
    schema: Schema
    workflow: Workflow
    model: Recommender

    @property
    def directory(self) -> RunDirectory:
        """The paths of the run's files."""
        return RunDirectory(self.path)

    @property
    def max_length(self) -> int:
        """How many of the newest events the model reads."""
        return self.config.model.max_length

    @property
    def item_names(self) -> list[str | None]:
        """Name of every item id; None for reserved ids."""
        return item_names(self.workflow)

    def require_data(self, schema: Schema, source: object) -> None:
        """Raise SchemaError unless sequences of this schema, read from `source`, can feed the model."""
        schema.require_match(_of_data(self.schema), source)

    def __repr__(self) -> str:
        items = self.schema.item().num_values()
        weights = sum(p.numel() for p in self.model.parameters())
        return f"LoadedRun({self.path}: {items:,} items, {weights:,} parameters, newest {self.max_length} events)"


def _of_data(schema: Schema) -> Schema:
    """The columns that come with the data; vectors of the items came with the training and are part of the weights."""
    return Schema(columns=[c for c in schema.columns if c.kind is not Kind.PRETRAINED])


def item_names(workflow: Workflow) -> list[str | None]:
    """Name of every item id 0 .. V - 1 of a workflow; None for reserved ids."""
    names: list[str | None] = workflow.items["item_id"].to_list()
    return names


def load(path: Path | str, device: torch.device | str | None = None) -> LoadedRun:
    """Read a run directory that training finished.

    Args:
        path: the run directory.
        device: where the model goes; None: a GPU where there is one, else the CPU.

    Raises:
        RunError: a file is missing or unreadable, or weights, schema, workflow and configuration do not fit together.
        ConfigError: config.yaml holds an unknown key or value.
    """
    run = RunDirectory(Path(path))
    config = run.load_config()
    match config.kind:
        case "recommender":
            return _load_recommender(run, config, device)


def _load_recommender(run: RunDirectory, config: RunConfig, device: torch.device | str | None) -> LoadedRun:
    for file in (run.schema_file, run.workflow, run.weights):
        run.require(file)
    schema, workflow = run.load_schema(), Workflow.load(run.workflow)
    different = workflow.schema.differences(_of_data(schema))
    if different:
        raise RunError(f"{run.path}: workflow/ does not belong to schema.json: {different[0]}; train the run again")
    weights, base = _read_weights(run.weights)
    with torch.random.fork_rng(devices=[]):  # weights drawn only to be replaced must not move the caller's generator
        try:
            model = build_model(config.model, schema, workflow.items, counts=workflow.fitted.id_counts)
        except RecsysError as error:
            raise RunError(f"{run.path}: config.yaml does not fit schema.json: {error}") from error
    require_base(model, base, run.weights)
    _require_fit(run.weights, weights, own_state(model))
    model.load_state_dict(weights, strict=base is None)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return LoadedRun(run.path, config, schema, workflow, model.to(chosen).eval())


def _read_weights(file: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        return read_weights(file)
    except (SafetensorError, OSError) as error:
        why = one_line(error)
        raise RunError(f"{file}: not a readable safetensors file (cut off?): {why}; train the run again") from error


def _require_fit(file: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise on the first tensor that the schema and configuration do not expect as it is."""
    for name, tensor in expected.items():
        if name not in weights:
            raise RunError(f"{file}: has no '{name}', which config.yaml and schema.json ask for; train the run again")
        found, wanted = list(weights[name].shape), list(tensor.shape)
        if found != wanted:
            raise RunError(
                f"{file}: '{name}' is {found}, but config.yaml and schema.json ask for {wanted}; "
                "the weights are of another schema or configuration"
            )
    for name in weights:
        if name not in expected:
            raise RunError(f"{file}: holds '{name}', for which config.yaml and schema.json have no place")
