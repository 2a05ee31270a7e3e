"""The cut last layer gives the states that the whole one gives at each row's newest event."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.export.newest import NewestLayer, cut_last_layer, newest_states
from recsys.inference import load
from tests.tiny_bundle import SIZES
from tests.tiny_run import make_config, make_events, make_run

HEADS = {"num_heads": 2, "intermediate_size": 16, **SIZES}


@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral", "gpt2", "sasrec"])
@torch.no_grad()
def test_newest_states(name: str, tmp_path: Path) -> None:
    backbone: dict[str, Any] = {"name": name, **HEADS, "num_layers": 2}
    _, run = make_run(tmp_path, make_events(sessions=12), make_config(backbone=backbone))
    model = load(run, device="cpu").model
    vectors, lengths = torch.randn(4, 6, 8), torch.tensor([6, 1, 3, 5])
    whole = model.predictive(vectors, lengths)[torch.arange(4), lengths - 1]
    torch.testing.assert_close(newest_states(model, vectors, lengths, None), whole)
    cut_last_layer(getattr(model.backbone, "model", model.backbone))
    cuts = [m for m in model.modules() if isinstance(m, NewestLayer)]
    assert len(cuts) == (name in ("llama", "qwen3", "mixtral"))
    torch.testing.assert_close(newest_states(model, vectors, lengths, None), whole)
    assert all(cut.lengths == [] for cut in cuts)
