"""A decoder that is read at each row's newest event alone, in the operators that ONNX has for it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.export.to_onnx import fixed
from recsys.recommender import Recommender

SHAPES = ("llama", "qwen3", "mixtral")
"""Architectures of `transformers` whose layers are attention and feed-forward block, each behind a norm."""
ROTATIONS = ("default", "linear", "llama3")
"""Kinds of rotary positions whose angles do not depend on how long the sequence is."""
CROWDED = 1024
"""Rows of so many floats, or of a multiple, all begin in the same lines of a processor's cache."""
APART = 16
"""Floats of one such line."""


class NewestDecoder(nn.Module):
    """The layers of a causal model of one of `SHAPES`, of whose states only each row's newest is wanted.

    The last layer is computed at that event alone. Norms, positions and attention are the operators that ONNX has for
    them since opset 23, and no mask is made: padding stands on the right, where no event looks.

    Args:
        model: of `transformers`, without sliding windows; see `newest_decoder`.
        max_length: longest sequence.
    """

    def __init__(self, model: nn.Module, max_length: int) -> None:
        super().__init__()
        layers: Any = model.layers
        self.layers: Any = nn.ModuleList([_Layer(layer) for layer in layers])
        self.norm = _Norm(model.norm)
        rotary: Any = model.rotary_emb
        cosines, sines = rotary(self.norm.weight, torch.arange(max_length)[None])  # [1, L, D], the second half again
        half = cosines.shape[2] // 2
        self.cosines, self.sines = fixed(cosines[0, :, :half]), fixed(sines[0, :, :half])  # [L, D/2]

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """vectors ``[B, T, H]``, lengths ``[B]`` to the state ``[B, H]`` at ``lengths - 1``."""
        rows, steps, _ = vectors.shape
        positions = torch.arange(steps).expand(rows, -1)  # [B, T]
        *layers, last = self.layers
        for layer in layers:
            vectors = layer(vectors, self.cosines, self.sines, positions)
        newest = last.newest(vectors, self.cosines, self.sines, positions, lengths)
        states: Tensor = self.norm(newest).squeeze(1)
        return states


class _Layer(nn.Module):
    """One layer of the decoder."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        attention: Any = layer.self_attn
        self.attention = attention
        self.head_size, self.scaling = int(attention.head_dim), float(attention.scaling)
        self.norms = nn.ModuleDict({n: _Norm(m) for n in "qk" if (m := getattr(attention, f"{n}_norm", None))})
        self.before, self.between = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        block: Any = layer.mlp
        self.block = _FeedForward(block) if hasattr(block, "gate_proj") else block

    def forward(self, states: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor) -> Tensor:
        """states ``[B, T, H]`` to ``[B, T, H]``; cosines and sines ``[L, D/2]``, positions ``[B, T]``."""
        normed = self.before(states)
        queries, keys = (self._turned(n, normed, cosines, sines, positions) for n in "qk")
        attended: Any = torch.onnx.ops.attention(
            queries,
            keys,
            self.attention.v_proj(normed),
            is_causal=True,
            q_num_heads=queries.shape[2] // self.head_size,
            kv_num_heads=keys.shape[2] // self.head_size,
            scale=self.scaling,
        )
        return self._fed(states + self.attention.o_proj(attended[0]))

    def newest(self, states: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, lengths: Tensor) -> Tensor:
        """The same at each row's newest event alone, ``[B, 1, H]``: of the others only the keys are computed.

        With one query, values need not be computed either: ``sum_j a_j (V x_j) = V (sum_j a_j x_j)``.
        """
        normed = self.before(states)
        queries = self._turned("q", take_newest(normed, lengths), cosines, sines, (lengths - 1)[:, None])
        keys = self._turned("k", normed, cosines, sines, positions).unflatten(2, (-1, self.head_size))  # [B, T, G, D]
        groups = queries.view(keys.shape[0], keys.shape[2], -1, self.head_size)  # [B, G, A/G, D]: heads of each key
        scores = groups @ keys.permute(0, 2, 3, 1) * self.scaling  # [B, G, A/G, T]
        later = positions[:, None, None] >= lengths[:, None, None, None]  # [B, 1, 1, T]
        shares = scores.masked_fill(later, float("-inf")).softmax(-1)
        seen = (shares.flatten(1, 2) @ normed).view(*shares.shape[:3], -1)  # [B, G, A/G, H]
        values = self.attention.v_proj(seen).unflatten(3, (-1, self.head_size))  # [B, G, A/G, G, D]: its own is wanted
        own = torch.eye(groups.shape[1]).view(groups.shape[1], 1, -1, 1)
        contexts = (values * own).sum(3)  # [B, G, A/G, D]
        attended = self.attention.o_proj(contexts.reshape(keys.shape[0], 1, -1))
        return self._fed(take_newest(states, lengths) + attended)

    def _turned(self, kind: str, states: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor) -> Tensor:
        """Queries or keys of all heads side by side, with their positions' rotation (arXiv:2104.09864)."""
        heads: Tensor = getattr(self.attention, f"{kind}_proj")(states)  # [B, T, heads * D]
        if kind in self.norms:
            heads = self.norms[kind](heads.unflatten(2, (-1, self.head_size))).flatten(2)
        count = heads.shape[2] // self.head_size
        return torch.onnx.ops.rotary_embedding(heads, cosines, sines, positions, num_heads=count)

    def _fed(self, states: Tensor) -> Tensor:
        fed: Tensor = states + self.block(self.between(states))
        return fed


class _Norm(nn.Module):
    """Root mean square norm, as one operator."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, float(norm.variance_epsilon)

    def forward(self, states: Tensor) -> Tensor:
        """states ``[..., W]`` to ``[..., W]``."""
        return functional.rms_norm(states, self.weight.shape, self.weight, self.epsilon)


class _FeedForward(nn.Module):
    """The gated feed-forward block; a `CROWDED` width is `APART` wider, of zeros that change nothing.

    A product reads a dozen rows at a time. Where all of them fall on the same lines of the cache they drive each other
    out, and the product takes a third longer.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        more = APART if block.gate_proj.out_features % CROWDED == 0 else 0
        self.gate, self.up = (_padded(m, more, 0) for m in (block.gate_proj, block.up_proj))
        self.down, self.activation = _padded(block.down_proj, 0, more), block.act_fn

    def forward(self, states: Tensor) -> Tensor:
        """states ``[B, T, H]`` to ``[B, T, H]``."""
        fed: Tensor = self.down(self.activation(self.gate(states)) * self.up(states))
        return fed


@torch.no_grad()
def _padded(linear: nn.Linear, outputs: int, inputs: int) -> nn.Linear:
    """The map with so many further outputs of zero, and inputs that it does not read."""
    wider = nn.Linear(
        linear.in_features + inputs, linear.out_features + outputs, linear.bias is not None, dtype=linear.weight.dtype
    )
    wider.weight.copy_(functional.pad(linear.weight, (0, inputs, 0, outputs)))
    if linear.bias is not None:
        wider.bias.copy_(functional.pad(linear.bias, (0, outputs)))
    return wider.requires_grad_(False)


def take_newest(states: Tensor, lengths: Tensor) -> Tensor:
    """States ``[B, T, H]`` at ``lengths - 1``, ``[B, 1, H]``."""
    return states.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2]))


def newest_decoder(model: Recommender) -> NewestDecoder | None:
    """The backbone as a `NewestDecoder`; None where it is none, or one that cannot be read so."""
    backbone: Any = model.backbone
    inner: Any = getattr(backbone, "model", None)
    config = getattr(inner, "config", None)
    if not model.rule.every_position or getattr(config, "model_type", None) not in SHAPES or not len(inner.layers):
        return None
    windows = [getattr(x.self_attn, "sliding_window", getattr(config, "sliding_window", None)) for x in inner.layers]
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if any(window is not None for window in windows) or rotation not in ROTATIONS:
        return None
    return NewestDecoder(inner, int(backbone.max_length))
