"""Train and evaluate what the full model is compared with: item ids alone, cross entropy, no auxiliary task.

Flags and ``--set`` come on top, so that each part can be put back alone.

example:
  python -m model.train_eval_baseline_models --data out/dataset --out out/baseline --config configs/vectorworks.yaml
"""

from collections.abc import Sequence

from model import recipe
from recsys.runtime import command_line

BASELINE = {
    "model.inputs.streams": ["item_id"],
    "model.inputs.text_table": None,
    "model.inputs.fusion": "sum",
    "model.loss.name": "cross_entropy",
    "model.auxiliary": [],
}


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run it and print the figures."""
    recipe.main(recipe.parse_arguments("train_eval_baseline_models", __doc__, arguments), BASELINE)


if __name__ == "__main__":
    raise SystemExit(main())
