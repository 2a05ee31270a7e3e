"""What the training recipes share: flags that stand for settings, and a run from a sequence dataset to figures."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from model import dry_run
from recsys.config import BackboneConfig, LossConfig, NegativesConfig, RunConfig, override, parse, read_yaml
from recsys.errors import ConfigError, nearest
from recsys.run_directory import RunDirectory
from recsys.runtime import note
from recsys.schema import Schema

if TYPE_CHECKING:
    from recsys.evaluation import Evaluation

NAMED = {  # sections whose name says which of their fields mean anything
    "model.backbone": lambda name, field: BackboneConfig.model_construct(name=name).knows(field),
    "model.loss": lambda name, field: field in ("name", *LossConfig.FIELDS[name]),
    "model.loss.negatives": lambda name, field: field in ("name", *NegativesConfig.FIELDS[name]),
}
FLAGS = {  # what a flag sets; a section's name stands before its other fields
    "backbone": "model.backbone.name",
    "norm": "model.backbone.norm",
    "peft": "model.peft.method",
    "target-modules": "model.peft.target_modules",
    "quantization": "model.peft.quantization",
    "compute-dtype": "model.peft.compute_dtype",
    "masking": "model.masking",
    "replacements": "model.masked.replacements",
    "fusion": "model.inputs.fusion",
    "text-use": "model.inputs.text_use",
    "continuous": "model.inputs.continuous",
    "clock": "model.inputs.clock",
    "direct": "model.inputs.direct",
    "loss": "model.loss.name",
    "loss-dtype": "model.loss.dtype",
    "class-weights": "model.loss.class_weights",
    "negatives": "model.loss.negatives.name",
    "tied": "model.tied",
    "bias": "model.bias",
    "similarity": "model.similarity",
    "temperature": "model.temperature",
    "learn-temperature": "model.learn_temperature",
    "repeat-bias": "model.repeat_bias",
    "task-weights": "model.task_weights",
    "seed": "seed",
    "epochs": "training.epochs",
    "learning-rate": "training.learning_rate",
}
SHAPE = (  # of a backbone; all of it comes with an architecture
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "intermediate_size",
    "rope_theta",
    "num_experts",
    "experts_per_token",
)


def parse_arguments(name: str, text: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line of the recipe `name`, whose help is `text`."""
    parser = _parser(name, text)
    given = parser.parse_args(arguments)
    if given.items is not None and (given.data is not None or not given.dry_run):
        parser.error("--items goes with --dry-run without --data")
    if given.items is not None and given.items < 1:
        parser.error("--items: at least 1")
    missing = [flag for flag in ("data", "out") if getattr(given, flag) is None]
    if missing and not given.dry_run:
        parser.error(f"the following arguments are required: {', '.join(f'--{flag}' for flag in missing)}")
    if given.card is not None and not given.dry_run:
        parser.error("--card goes with --dry-run")
    return given


def _parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """A flag for every choice of the model, and for what else is often compared."""
    parser = argparse.ArgumentParser(
        prog=f"python -m model.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="sequence dataset from `recsys preprocess`")
    parser.add_argument("--out", type=Path, help="run directory to write")
    parser.add_argument("--config", "--config-path", type=Path, help="YAML of a run (default: all defaults)")
    for flag, key in FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"{key} (default: as --config says)", **_takes(key))
    parser.add_argument(
        "--gaps",
        nargs="+",
        type=_gap,
        metavar="COLUMN[=SCALE]",
        help="model.inputs.gaps: columns of seconds, in buckets",
    )
    parser.add_argument("--pretrained", help="folder or hub name of the backbone's weights, whose shape it then has")
    parser.add_argument("--no-text", action="store_true", help="leave the text stream out")
    parser.add_argument("--no-auxiliary", action="store_true", help="predict the item alone")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override any other setting")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of --out")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    parser.add_argument("--dry-run", action="store_true", help="print the plan of memory, write nothing and stop")
    parser.add_argument("--card", help="whether the plan fits: 24GiB, or a name as A100-80GB (with --dry-run)")
    parser.add_argument("--items", type=int, help="items that --dry-run assumes without --data (default: 4,000)")
    return parser


def _takes(key: str) -> dict[str, Any]:
    """What argparse is told of the flag of a setting: its names, that it is a switch, or a number."""
    names, kind = choices(key), _type_of(key)
    if names:
        return {"choices": names}
    return {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}


def _gap(text: str) -> tuple[str, dict[str, str]]:
    column, stated, scale = text.partition("=")
    return column, {"scale": scale} if stated else {}


def _type_of(key: str) -> Any:
    found: Any = RunConfig
    for part in key.split("."):
        found = found.model_fields[part].annotation
    return found


def choices(key: str) -> list[str]:
    """The names that a setting can have; empty where it is a number or text."""
    return names_in(_type_of(key))


def names_in(annotation: object) -> list[str]:
    """The names that a type offers, alone or beside others (a list, None)."""
    return [name for part in get_args(annotation) for name in ([part] if isinstance(part, str) else names_in(part))]


def configuration(given: argparse.Namespace, defaults: Mapping[str, Any] | None = None) -> RunConfig:
    """The run's configuration: the YAML, then `defaults`, then the flags, then ``--set``."""
    changes = dict(defaults or {})
    for flag, key in FLAGS.items():
        value = getattr(given, flag.replace("-", "_"))
        if value is not None:
            changes[key] = value
    if given.pretrained is not None:
        changes |= {"model.backbone.pretrained": given.pretrained, "model.backbone.architecture": None}
    if given.gaps is not None:
        changes["model.inputs.gaps"] = dict(given.gaps)
    if given.no_text:
        changes |= {"model.inputs.text_table": None}
    if given.no_auxiliary:
        changes |= {"model.auxiliary": []}
    values = changed(read_yaml(given.config) if given.config else {}, changes, "flags")
    if given.pretrained is not None:
        for field in SHAPE:
            values["model"]["backbone"].pop(field, None)
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


def run_unless_kept(name: str, data: Path, config: RunConfig, out: Path) -> RunDirectory:
    """The run of `config` in `out`: the one that is there where `why_train` has nothing against it, else a new one."""
    directory = RunDirectory(out)
    reason = why_train(directory, config, data)
    if reason is not None:
        note(f"{name}, seed {config.seed}: {out}: {reason}")
        run(data, config, out, overwrite=True)
    return directory


def why_train(directory: RunDirectory, config: RunConfig, data: Path) -> str | None:
    """Why the run of `config` on `data` has to be trained; None where `directory` holds it, finished and evaluated.

    The configuration is compared with its architecture written out, as a run saves it, and by their contents the
    dataset and the files that it names: text table, pretrained weights, the run it starts from.

    Raises:
        InputError: there is no such dataset or text table.
        ConfigError: no such architecture.
    """
    from recsys.build import attach_text, settle
    from recsys.training.records import changed_sources, describe_environment

    if not all(file.is_file() for file in (directory.metrics_file, directory.history_file, directory.memory_file)):
        return "trained, since no finished run is there"
    wanted = config.model_copy(update={"model": settle(config.model, complete=True)})
    if directory.load_config().model_dump(mode="json") != wanted.model_dump(mode="json"):
        return "trained again, since its configuration is another"
    attach_text(config.model.inputs, Schema.load(data / "schema.json"))  # says what is missing
    changes = changed_sources(directory.read_json(directory.environment_file), describe_environment(wanted, data))
    return f"trained again, since it was made from another {' and '.join(changes)}" if changes else None


def count_trained(directory: RunDirectory) -> int:
    """Numbers that training may change: neither what is frozen nor what the data give (text vectors, attributes)."""
    return int(directory.read_json(directory.memory_file)["trainable"])


def main(given: argparse.Namespace, defaults: Mapping[str, Any] | None = None) -> None:
    """Run what the flags say and print the figures beside the baselines'."""
    config = configuration(given, defaults)
    if given.dry_run:
        dry_run.show(given.data, config, given.card, given.items)
        return
    directory, evaluation = run(given.data, config, given.out, resume=given.resume, overwrite=given.overwrite)
    print(evaluation)
    seconds = directory.read_json(directory.history_file)["cpu_seconds"]
    model = config.model
    print(
        f"run: {directory.path}: {model.backbone.name}, {model.masking}, {model.inputs.fusion}, {model.loss.name}; "
        f"{count_trained(directory):,} trained parameters, {seconds:,.0f} CPU s of training"
    )
