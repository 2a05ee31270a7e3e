"""GRU layers as ONNX's own operator; traced step by step, they would keep the example's length."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recsys.export.to_onnx import fixed


@torch.library.custom_op("recsys::gru_layer", mutates_args=())
def gru_layer(x: Tensor, w: Tensor, r: Tensor, b: Tensor) -> Tensor:
    """One layer: x ``[B, T, H]``, w and r ``[1, 3H, H]``, b ``[1, 6H]`` in ONNX's order of gates, to ``[B, T, H]``."""
    w_ih, w_hh = (_swapped(part[0]) for part in (w, r))
    b_ih, b_hh = (_swapped(part) for part in b[0].chunk(2))
    start = x.new_zeros(1, x.shape[0], r.shape[2])
    return torch.gru(x, start, [w_ih, w_hh, b_ih, b_hh], True, 1, 0.0, False, False, True)[0].contiguous()


@gru_layer.register_fake
def _shape(x: Tensor, w: Tensor, r: Tensor, b: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], r.shape[2])


class ExportedGRU(nn.Module):
    """The layers of an `nn.GRU` (one direction, batch first) in the form that is exported."""

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.layers = nn.ParameterList()
        for layer in range(gru.num_layers):
            w, r, b_ih, b_hh = (getattr(gru, f"{n}_l{layer}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            bias = torch.cat([_swapped(b_ih), _swapped(b_hh)])
            self.layers.extend([fixed(_swapped(w)[None]), fixed(_swapped(r)[None]), fixed(bias[None])])

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """x ``[B, T, H]`` to the states ``[B, T, H]``, as the first of a tuple."""
        for at in range(0, len(self.layers), 3):
            x = gru_layer(x, *self.layers[at : at + 3])
        return (x,)


def translations(hidden_size: int) -> dict[Any, Callable[..., Any]]:
    """How the exporter writes a layer of width `hidden_size`."""
    from onnxscript import opset18

    op: Any = opset18

    def layer(x: Any, w: Any, r: Any, b: Any) -> Any:
        states, _ = op.GRU(op.Transpose(x, perm=[1, 0, 2]), w, r, b, hidden_size=hidden_size, linear_before_reset=1)
        return op.Transpose(op.Squeeze(states, op.Constant(value_ints=[1])), perm=[1, 0, 2])

    return {torch.ops.recsys.gru_layer.default: layer}


def _swapped(gates: Tensor) -> Tensor:
    """Rows of the gates reset, update, new (PyTorch) in ONNX's order update, reset, new, or the other way round."""
    reset, update, new = gates.chunk(3)
    return torch.cat([update, reset, new])
