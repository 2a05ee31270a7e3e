"""Train and evaluate the full model: fused streams, auxiliary tasks, any backbone and loss by flag.

example:
  python -m model.train_eval_full_models --data out/dataset --out out/gru --config run.yaml --backbone gru
"""

from collections.abc import Sequence

from model import recipe
from recsys.runtime import command_line


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run it and print the figures."""
    recipe.main(recipe.parse_arguments("train_eval_full_models", __doc__, arguments))


if __name__ == "__main__":
    raise SystemExit(main())
