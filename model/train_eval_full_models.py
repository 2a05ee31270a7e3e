"""Train and evaluate the full model: fused streams, auxiliary tasks, any backbone and loss by flag.

example:
  python -m model.train_eval_full_models --data out/dataset --out out/gru --config run.yaml --backbone gru
"""

import argparse
from collections.abc import Sequence

from model import recipe
from recsys.runtime import command_line


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.train_eval_full_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipe.add_flags(parser)
    return parser.parse_args(arguments)


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run it and print the figures."""
    recipe.main(parse_arguments(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
