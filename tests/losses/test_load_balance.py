"""Load balance against the reference of `transformers`, and by hand."""

import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from recsys.errors import InputError
from recsys.losses import load_balance


@pytest.mark.parametrize(("layers", "experts", "top_k"), [(1, 4, 1), (3, 8, 2), (2, 5, 5)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_mixtral(layers: int, experts: int, top_k: int, masked: bool) -> None:
    g = torch.Generator().manual_seed(experts)
    logits = tuple(torch.randn(24, experts, generator=g).requires_grad_() for _ in range(layers))
    mask = torch.arange(8)[None] < torch.tensor([8, 3, 1])[:, None] if masked else None
    got = load_balance(logits, top_k, mask)
    want = load_balancing_loss_func(logits, experts, top_k, mask)
    torch.testing.assert_close(got.loss, want)
    found, expected = torch.autograd.grad(got.loss, logits), torch.autograd.grad(want, logits)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert float(got.load.sum()) == pytest.approx(1.0)


def test_by_hand() -> None:
    """Two of three tokens go to expert 0; the fourth is padding and would go to expert 1."""
    p = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.0, 1.0]])
    out = load_balance([p.clamp(min=1e-9).log()[None]], 1, torch.tensor([True, True, True, False]))
    assert float(out.loss) == pytest.approx(2 * (2 / 3 * 1.8 / 3 + 1 / 3 * 1.2 / 3), rel=1e-6)
    assert out.load.tolist() == pytest.approx([2 / 3, 1 / 3])
    none = load_balance([p], 1, torch.zeros(4, dtype=torch.bool))
    assert float(none.loss) == 0


def test_arguments_that_do_not_fit_are_named() -> None:
    logits = torch.zeros(4, 3)
    for arguments, message in (
        (([], 1), "is empty"),
        (([logits], 4), r"top_k \(4\) must lie in 1 .. 3"),
        (([logits], 1, torch.ones(5, dtype=torch.bool)), "valid has 5 values, the router 4 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            load_balance(*arguments)
