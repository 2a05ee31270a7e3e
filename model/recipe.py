"""What the training recipes share: flags that stand for settings, and a run from a sequence dataset to figures."""

import argparse
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from model import dry_run
from recsys.config import BackboneConfig, LossConfig, RunConfig, override, parse, read_yaml
from recsys.errors import ConfigError, nearest
from recsys.run_directory import RunDirectory

if TYPE_CHECKING:
    from recsys.evaluation import Evaluation

NAMED = {  # sections whose name says which of their fields mean anything
    "model.backbone": lambda name, field: BackboneConfig.model_construct(name=name).knows(field),
    "model.loss": lambda name, field: field in ("name", *LossConfig.FIELDS[name]),
}
FLAGS = {  # what a flag sets
    "backbone": "model.backbone.name",
    "loss": "model.loss.name",
    "fusion": "model.inputs.fusion",
    "masking": "model.masking",
    "seed": "seed",
    "epochs": "training.epochs",
    "learning-rate": "training.learning_rate",
}


def parse_arguments(name: str, text: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line of the recipe `name`, whose help is `text`: a flag for every choice that is compared."""
    parser = argparse.ArgumentParser(
        prog=f"python -m model.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="sequence dataset from `recsys preprocess`")
    parser.add_argument("--out", type=Path, help="run directory to write")
    parser.add_argument("--config", "--config-path", type=Path, help="YAML of a run (default: all defaults)")
    for flag, key in FLAGS.items():
        names = choices(key)
        options: dict[str, Any] = {"choices": names} if names else {"type": float if flag != "seed" else int}
        parser.add_argument(f"--{flag}", help=f"{key} (default: as --config says)", **options)
    parser.add_argument("--pretrained", help="folder or hub name of the backbone's weights, whose shape it then has")
    parser.add_argument("--no-text", action="store_true", help="leave the text stream out")
    parser.add_argument("--no-auxiliary", action="store_true", help="predict the item alone")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override any other setting")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of --out")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    parser.add_argument("--dry-run", action="store_true", help="print the plan of memory, write nothing and stop")
    parser.add_argument("--card", help="whether the plan fits: 24GiB, or a name as A100-80GB (with --dry-run)")
    given = parser.parse_args(arguments)
    if given.out is None and not given.dry_run:
        parser.error("the following arguments are required: --out")
    if given.card is not None and not given.dry_run:
        parser.error("--card goes with --dry-run")
    return given


def choices(key: str) -> list[str]:
    """The names that a setting can have; empty where it is a number or text."""
    model: Any = RunConfig
    for part in key.split("."):
        annotation = model.model_fields[part].annotation
        model = annotation
    return [str(name) for name in get_args(annotation) if isinstance(name, str)]


def configuration(given: argparse.Namespace, defaults: Mapping[str, Any] | None = None) -> RunConfig:
    """The run's configuration: the YAML, then `defaults`, then the flags, then ``--set``."""
    changes = dict(defaults or {})
    for flag, key in FLAGS.items():
        value = getattr(given, flag.replace("-", "_"))
        if value is not None:
            changes[key] = value
    if given.pretrained is not None:
        changes |= {"model.backbone.pretrained": given.pretrained, "model.backbone.architecture": None}
    if given.no_text:
        changes |= {"model.inputs.text_table": None}
    if given.no_auxiliary:
        changes |= {"model.auxiliary": []}
    values = changed(read_yaml(given.config) if given.config else {}, changes, "flags")
    return parse(RunConfig, override(values, given.set), given.config or "flags")


def changed(values: Mapping[str, Any], changes: Mapping[str, Any], source: object) -> dict[str, Any]:
    """A run's YAML values with other settings.

    A new name of a backbone or loss leaves the settings behind that it has no use for.

    Args:
        changes: by dotted key (``model.backbone.name``).

    Raises:
        ConfigError: a name that there is not, or a key below one that is no section.
    """
    result = override(dict(values), [])
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = result
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{source}: {key}: '{parent}' is not a section")
        fits = NAMED.get(".".join(parents))
        if fits is not None and last == "name":
            known = choices(key)
            if value not in known:
                raise ConfigError(f"{source}: {key}: no '{value}'{nearest(str(value), known)}")
            for field in [field for field in section if not fits(value, field)]:
                del section[field]
        section[last] = value
    return result


def run(
    data: Path, config: RunConfig, out: Path, *, resume: bool = False, overwrite: bool = False
) -> tuple[RunDirectory, "Evaluation"]:
    """Train and evaluate; the figures are in ``OUT/metrics.json`` too."""
    from recsys.evaluation import evaluate
    from recsys.training import train

    directory = train(data, config, out, resume=resume, overwrite=overwrite)
    return directory, evaluate(directory.path, data)


def count_parameters(directory: RunDirectory) -> int:
    """Numbers in the weights of a run, buffers included."""
    from safetensors import safe_open

    with safe_open(directory.weights, framework="np") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def main(given: argparse.Namespace, defaults: Mapping[str, Any] | None = None) -> None:
    """Run what the flags say and print the figures beside the baselines'."""
    config = configuration(given, defaults)
    if given.dry_run:
        dry_run.show(given.data, config, given.card)
        return
    directory, evaluation = run(given.data, config, given.out, resume=given.resume, overwrite=given.overwrite)
    print(evaluation)
    seconds = directory.read_json(directory.history_file)["cpu_seconds"]
    model = config.model
    print(
        f"run: {directory.path}: {model.backbone.name}, {model.masking}, {model.inputs.fusion}, {model.loss.name}; "
        f"{count_parameters(directory):,} parameters, {seconds:,.0f} CPU s of training"
    )
