"""Events to a sequence dataset by either engine.

Example: python -m model.preprocess --engine nvtabular --workers 2 --events out/events --out out/dataset
"""

import argparse
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
    parser.add_argument("--engine", choices=("polars", "nvtabular"), default="polars", help="default: polars")
    parser.add_argument("--workers", type=int, default=1, help="processes of a Dask LocalCluster (engine nvtabular)")
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

    from recsys.config import load_config
    from recsys.etl import preprocess
    from recsys.etl.nvtabular_engine import preprocess_nvtabular

    config = load_config(options.config, options.set)
    given = {"workflow": options.workflow, "overwrite": options.overwrite}
    if options.engine == "nvtabular":
        made = preprocess_nvtabular(options.events, config, options.out, workers=options.workers, **given)
    elif options.workers != 1:
        raise ConfigError(f"--workers {options.workers} is for --engine nvtabular; engine polars uses all cores itself")
    else:
        made = preprocess(options.events, config, options.out, **given)
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        print(made.summary())
    print(made.leakage())
    for warning in made.report["warnings"]:
        print(f"warning: {warning}")


if __name__ == "__main__":
    raise SystemExit(main())
