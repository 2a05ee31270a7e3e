"""Events to a sequence dataset: by any engine, on one machine or many.

examples:
  python -m model.preprocess --events out/events --out out/dataset
  python -m model.preprocess --events out/events --out out/dataset --on ray --workers 8
  python -m model.preprocess --events out/events --out out/dataset --engine nvtabular --workers 2
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from recsys.errors import ConfigError
from recsys.runtime import command_line


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.preprocess", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=Path, required=True, help="cleaned events (folder) or a table of events")
    parser.add_argument("--out", type=Path, required=True, help="sequence dataset to write")
    engines = "polars (default); gpu: the same with cuDF; nvtabular: on pandas or Dask"
    parser.add_argument("--engine", choices=("polars", "gpu", "nvtabular"), default="polars", help=engines)
    who = "who works on the parts of the events (engines polars and gpu; default: threads)"
    parser.add_argument("--on", choices=("loop", "threads", "processes", "ray"), help=who)
    workers = "threads, processes, CPUs of a local Ray, or processes of a Dask cluster (default: as fits the engine)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers)
    parser.add_argument("--config", "--config-path", type=Path, help="YAML of a run; split, etl and seed are used")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    parser.add_argument("--workflow", type=Path, help="apply this fitted workflow instead of fitting one")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    return parser.parse_args(arguments)


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run it and print what became of each split."""
    options = parse_arguments(arguments)
    import polars as pl

    from recsys.buckets import Workers
    from recsys.config import load_config
    from recsys.etl import preprocess
    from recsys.etl.nvtabular_engine import preprocess_nvtabular

    config = load_config(options.config, options.set)
    given = {"workflow": options.workflow, "overwrite": options.overwrite}
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"workers ({options.workers}) must be at least 1")
    if options.engine == "nvtabular":
        if options.on is not None:
            raise ConfigError(f"--on {options.on} is for the engines polars and gpu; nvtabular has Dask: --workers N")
        made = preprocess_nvtabular(options.events, config, options.out, workers=options.workers or 1, **given)
    else:
        workers = None
        if options.on is not None or options.workers is not None:
            workers = Workers(options.on or "threads", options.workers or os.cpu_count() or 1)
        engine = "gpu" if options.engine == "gpu" else "cpu"
        made = preprocess(options.events, config, options.out, workers=workers, engine=engine, **given)
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        print(made.summary())
    for line in made.lines():
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
