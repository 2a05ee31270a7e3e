"""All stages in order: raw logs to aligned events, taken up again after the last stage that was finished.

Each stage writes a folder of its own name into OUT, by rename. ``OUT/run.json`` holds a key for each finished stage: a
hash of everything it depends on (files by size and time, settings, the stages before). A stage whose key still holds
is not run again; one whose inputs or settings have changed is, and so is what follows it. A table that a person has
edited (``align/command_dictionary.csv``, ``redundancy/redundancy.csv``) counts as an input of what follows.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from data_processing.chain import OPTIONAL, STAGES, Chain, Settings
from data_processing.parts import EventsFolder, given_workers, stage_parser
from data_processing.reconstruct import add_arguments
from recsys.cleaning.profile import load_profile
from recsys.config import load_config
from recsys.runtime import command_line, note

_COUNTS = ("stage", "rows_in", "rows_out", "removed")  # of a stage's report; what else stands there is printed


def run(
    settings: Settings, out: Path, report: Callable[[str], None] = lambda line: None, *, overwrite: bool = False
) -> Path:
    """Run what is not finished yet; returns the folder of the last stage that wrote events.

    Args:
        settings: see `Settings`.
        out: folder with a folder for each stage. It may exist if an earlier run made it.
        report: takes one line a stage, and one a folder that an earlier run left of a stage that is not run now.
        overwrite: run the stages that were finished, too. What services answered is kept.

    Raises:
        InputError, ConfigError: what is wrong with the input, in one line.
    """
    chain = Chain(settings, out)
    stages = chain.stages()  # before anything is written: looks at what it was given
    for line in chain.unused():
        note(line)
    chain.open(anew=overwrite)
    for stage in stages:
        key = chain.key(stage)
        if chain.is_finished(stage, key):
            report(f"{stage.name:<17} finished before")
            continue
        began = time.perf_counter()
        again = (out / stage.name).exists()
        chain.begin(stage)
        stage.make(out / stage.name)
        chain.finish(stage, key)
        report(f"{stage.name:<17} {time.perf_counter() - began:8.1f} s{'  (inputs had changed)' if again else ''}")
    for name in chain.left_over():
        report(f"{name:<17} not of this run; {out / name} is as an earlier run left it")
    return chain.result


def _parser() -> argparse.ArgumentParser:
    parser = stage_parser(
        "run",
        "All stages from raw logs to aligned events; called again, it goes on after the last one that was finished.",
        "--logs out/simulated/logs --profile vectorworks --config configs/vectorworks.yaml --out out/cleaned",
    )
    out = "folder with a folder for each stage; an earlier run's is taken up"
    add_arguments(parser, out, overwrite="run all stages anew; what services answered is kept")
    parser.add_argument("--config", "--config-path", type=Path, help="run YAML; its section 'split' is used")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for instance split.seed=1")
    parser.add_argument("--docs", type=Path, help="documentation (folder, file or archive): runs side_information")
    parser.add_argument(
        "--dictionary-overrides", type=Path, metavar="CSV", help="message,label: wins over what align finds"
    )
    parser.add_argument(
        "--redundancy-overrides", type=Path, metavar="CSV", help="high,low,decision: wins over what redundancy finds"
    )
    parser.add_argument(
        "--workflows", type=Path, metavar="JSON", help="apply this workflows.json, edited perhaps; learn none"
    )
    parser.add_argument(
        "--side-information-overrides", type=Path, metavar="CSV", help="item_id,summary,classification,target: wins"
    )
    parser.add_argument("--cache", type=Path, help="folder where answers of services are kept (default OUT/cache)")
    parser.add_argument("--skip", action="append", default=[], choices=OPTIONAL, help="leave a stage out")
    parser.add_argument("--until", default=STAGES[-1], choices=STAGES, help="the last stage to run")
    return parser


@command_line
def main(arguments: Sequence[str]) -> None:
    """Entry point of ``python -m data_processing.run``."""
    given = _parser().parse_args(arguments)
    settings = Settings(
        logs=given.logs,
        profile=load_profile(given.profile),
        split=load_config(given.config, given.set).split,
        metadata=given.metadata,
        docs=given.docs,
        dictionary_overrides=given.dictionary_overrides,
        redundancy_overrides=given.redundancy_overrides,
        workflows=given.workflows,
        side_information_overrides=given.side_information_overrides,
        cache=given.cache,
        skip=tuple(given.skip),
        until=given.until,
        max_bytes=given.max_bytes,
        workers=given_workers(given),
    )
    result = run(settings, given.out, report=print, overwrite=given.overwrite)
    stages = EventsFolder(result).report()["stages"]
    print()
    for stage in stages:
        found = {name: count for name, count in stage.items() if name not in _COUNTS and count}
        facts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.items())
        print(f"{stage['stage']:<24} {stage['rows_in']:>14,} -> {stage['rows_out']:>14,}  {facts}".rstrip())
    print(f"\n{_next_step(result, given.until)}")


def _next_step(result: Path, until: str) -> str:
    if result.name == "reconstruct":
        return f"{result}: not for training yet (--until {until}); the same command with a later --until goes on"
    then = f"{result}: read it with recsys preprocess --events {result} --out DIR"
    plain = result.parent / "filter"
    with_workflows = (result / "cleaning" / "workflows.json").is_file()
    return f"{then}\n(without workflows: {plain})" if with_workflows else then


if __name__ == "__main__":
    raise SystemExit(main())
