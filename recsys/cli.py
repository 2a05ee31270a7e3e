"""The `recsys` command. Heavy imports wait until a command runs, so that ``--help`` answers at once."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from recsys.cleaning.streams import DEFAULT_MAX_BYTES
from recsys.runtime import command_line, gigabytes

Handler = Callable[[argparse.Namespace], None]


@command_line
def main(arguments: Sequence[str]) -> None:
    """Run one command; errors are one line and exit status 2 (see `recsys.runtime.command_line`)."""
    # Threads that spin while they wait halve the speed on a machine that has other work; torch reads this on import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = build_parser()
    options = parser.parse_args(arguments)
    handler: Handler = options.handler
    handler(options)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="recsys",
        description="Sequence models on usage logs: what comes next.",
        epilog="recsys COMMAND --help shows a command's flags and an example; --debug shows tracebacks.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_preprocess(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_recommend(commands)
    _add_export(commands)
    _add_verify(commands)
    _add_serve(commands)
    _add_report(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(commands: Commands, name: str, what: str, example: str, handler: Handler) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=what,
        description=what,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", "--config-path", type=Path, metavar="FILE", help="run configuration (YAML)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one configuration value, for instance training.epochs=3; may be repeated",
    )


def _add_max_gigabytes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-gigabytes",
        dest="max_bytes",
        type=gigabytes,
        default=DEFAULT_MAX_BYTES,
        metavar="N",
        help=f"cap on the decompressed size of a raw log (default {DEFAULT_MAX_BYTES / 1e9:g})",
    )


def _add_preprocess(commands: Commands) -> None:
    parser = _command(
        commands,
        "preprocess",
        "Turn cleaned events into a sequence dataset (fitted on the training split only).",
        "recsys preprocess --events out/events --config configs/vectorworks.yaml --out out/dataset",
        _preprocess,
    )
    parser.add_argument("--events", type=Path, required=True, help="cleaned events (folder) or a table of events")
    parser.add_argument("--out", type=Path, required=True, help="sequence dataset to write")
    fitted = parser.add_mutually_exclusive_group()
    fitted.add_argument(
        "--workflow", type=Path, metavar="RUN", help="apply the fitted workflow of this run or dataset; fit nothing"
    )
    fitted.add_argument(
        "--extend", type=Path, metavar="RUN", help="keep the ids of this run's or dataset's workflow, append new ones"
    )
    parser.add_argument(
        "--refit-statistics", action="store_true", help="with --extend: means and deviations over old and new events"
    )
    parser.add_argument("--into", choices=["train", "val", "test"], help="do not split: all events go into this split")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    _add_config(parser)


def _preprocess(options: argparse.Namespace) -> None:
    import polars as pl

    from recsys.config import load_config
    from recsys.errors import ConfigError
    from recsys.etl import Extension, preprocess

    if options.refit_statistics and options.extend is None:
        raise ConfigError("preprocess: --refit-statistics goes with --extend; without it all is fitted anew")
    settings = [*options.set]
    if options.into:
        settings += ["split.rule=none", f"split.into={options.into}"]
    config, blank = load_config(options.config, settings), None
    if options.extend is not None:
        blank = Extension.of(options.extend, config, refit_statistics=options.refit_statistics)
    result = preprocess(
        options.events, config, options.out, workflow=options.workflow, blank=blank, overwrite=options.overwrite
    )
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        print(result.summary())
    for line in result.lines():
        print(line)


def _add_train(commands: Commands) -> None:
    parser = _command(
        commands,
        "train",
        "Train a model on a sequence dataset.",
        "recsys train --data out/dataset --config configs/vectorworks.yaml --out out/run",
        _train,
    )
    parser.add_argument("--data", type=Path, required=True, help="sequence dataset from `recsys preprocess`")
    parser.add_argument("--out", type=Path, required=True, help="run directory to write")
    parser.add_argument(
        "--init-from", type=Path, metavar="RUN", help="start from this run's weights; --data may extend its items"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of --out")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    _add_config(parser)


def _train(options: argparse.Namespace) -> None:
    from recsys.config import load_config

    config = load_config(options.config, options.set)
    from recsys.training import train  # seconds, which a mistake in the configuration need not wait for

    if options.init_from is not None:
        training = config.training.model_copy(update={"init_from": str(options.init_from)})
        config = config.model_copy(update={"training": training})
    run = train(options.data, config, options.out, resume=options.resume, overwrite=options.overwrite)
    print(f"run: {run.path}")


def _add_evaluate(commands: Commands) -> None:
    parser = _command(
        commands,
        "evaluate",
        "Measure a run on its test split, or on other events, beside the baselines.",
        "recsys evaluate --run out/run --data out/dataset",
        _evaluate,
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument(
        "--data", type=Path, help="sequence dataset of the run: its split is scored, its train split fits the baselines"
    )
    parser.add_argument(
        "--input", type=Path, help="score the events of other people (folder, table or raw log) instead"
    )
    parser.add_argument("--split", choices=["train", "val", "test"], help="of --data (default test)")
    parser.add_argument("--out", type=Path, help="folder for the figures (default RUN; with --input only printed)")
    parser.add_argument("--seen", choices=["keep", "remove"], help="may items of the history be recommended?")
    parser.add_argument("--no-baselines", action="store_true", help="the model's figures only")
    _add_max_gigabytes(parser)


def _evaluate(options: argparse.Namespace) -> None:
    from recsys.errors import ConfigError
    from recsys.evaluation import evaluate, evaluate_events
    from recsys.run_directory import RunDirectory

    if options.data is None and options.input is None:
        raise ConfigError("evaluate: give --data DATASET (the run's test split) or --input EVENTS")
    if options.split and options.input:
        raise ConfigError("evaluate: --split names a part of --data; all of --input is scored")
    config = RunDirectory(options.run).load_config().evaluation
    if options.seen:
        config = config.model_copy(update={"seen": options.seen})
    baselines = not options.no_baselines
    if options.input is None:
        split, out = options.split or "test", options.out
        print(evaluate(options.run, options.data, split=split, config=config, baselines=baselines, out=out))
    else:
        print(
            evaluate_events(
                options.run,
                options.input,
                config=config,
                baselines=baselines,
                train=options.data,
                out=options.out,
                max_bytes=options.max_bytes,
            )
        )


def _add_recommend(commands: Commands) -> None:
    parser = _command(
        commands,
        "recommend",
        "Name the most likely next items of every session in a log or an events table.",
        "recsys recommend --run out/run --input new_log.jsonl --k 5",
        _recommend,
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--input", type=Path, required=True, help="events (folder or table) or a raw log")
    parser.add_argument("--k", type=int, default=5, help="items a session (default 5)")
    parser.add_argument("--seen", choices=["keep", "remove"], default="keep", help="may items of the history come up?")
    parser.add_argument("--out", type=Path, help="write a .parquet or .csv instead of printing")
    _add_max_gigabytes(parser)


def _recommend(options: argparse.Namespace) -> None:
    import polars as pl

    from recsys.errors import ConfigError
    from recsys.inference import recommend
    from recsys.runtime import atomic_file

    if options.out and options.out.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"--out {options.out}: expected a name that ends in .parquet or .csv")
    lists = recommend(options.run, options.input, k=options.k, seen=options.seen, max_bytes=options.max_bytes)
    if options.out is None:
        with pl.Config(
            tbl_rows=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, fmt_str_lengths=10_000
        ):
            print(lists)
        return
    with atomic_file(options.out) as work:
        write = lists.write_parquet if options.out.suffix == ".parquet" else lists.write_csv
        write(work)
    print(f"{options.out}: {lists['session_id'].n_unique()} sessions")


def _add_export(commands: Commands) -> None:
    parser = _command(
        commands,
        "export",
        "Write a run as a bundle that servers answer from (needs the extra 'serve').",
        "recsys export --run out/run --out out/bundle",
        _export,
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--out", type=Path, required=True, help="bundle to write")
    parser.add_argument("--int8", action="store_true", help="weights in 8 bits; says what that changes")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it is a bundle")


def _export(options: argparse.Namespace) -> None:
    from recsys.export import export

    for line in export(options.run, options.out, int8=options.int8, overwrite=options.overwrite).lines():
        print(line)


def _add_verify(commands: Commands) -> None:
    parser = _command(
        commands,
        "verify",
        "Check a bundle's hashes and replay its golden requests (needs onnxruntime).",
        "recsys verify out/bundle",
        _verify,
    )
    parser.add_argument("bundle", type=Path, help="folder that `recsys export` wrote")


def _verify(options: argparse.Namespace) -> None:
    from recsys.serving import require_onnxruntime

    require_onnxruntime()
    from recsys.serving.verify import verify

    print(verify(options.bundle).line(options.bundle))


def _add_serve(commands: Commands) -> None:
    parser = _command(
        commands,
        "serve",
        "Answer requests from a bundle over HTTP, KServe v2 (needs the extra 'serve').",
        "recsys serve --bundle out/bundle --port 8000",
        _serve,
    )
    parser.add_argument("--bundle", type=Path, required=True, help="folder that `recsys export` wrote")
    parser.add_argument("--name", default="recommend", help="the model's name in the addresses (default recommend)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)"
    )
    parser.add_argument("--port", type=int, default=8000, help="port (default 8000; 0: any that is free)")
    parser.add_argument("--workers", type=int, default=1, help="requests computed side by side (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="for each request, where cores are idle (default 1)")
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="bound on requests or waiting, for instance k=100 (docs/serving.md lists them); may be repeated",
    )


def _serve(options: argparse.Namespace) -> None:
    from recsys.server import read_limits, serve

    serve(
        options.bundle,
        name=options.name,
        host=options.host,
        port=options.port,
        workers=options.workers,
        threads=options.threads,
        limits=read_limits(options.limit),
    )


def _add_report(commands: Commands) -> None:
    parser = _command(
        commands,
        "report",
        "Write one self-contained HTML page about an evaluated run.",
        "recsys report --run out/run",
        _report,
    )
    parser.add_argument("--run", type=Path, required=True, help="run directory, evaluated")
    parser.add_argument("--out", type=Path, help="file to write (default RUN/report.html)")
    parser.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="RUN", help="runs to set beside it, evaluated alike"
    )


def _report(options: argparse.Namespace) -> None:
    from recsys.report import report

    print(f"report: {report(options.run, options.out, options.compare)}")


if __name__ == "__main__":
    sys.exit(main())
