"""Load balance of a mixture of experts: the auxiliary term that keeps all experts in use."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.errors import InputError


class LoadBalance(NamedTuple):
    """`loss`, a differentiable scalar; `load [E]`, the detached share of the assignments that each expert got."""

    loss: Tensor
    load: Tensor


def load_balance(router_logits: Sequence[Tensor], top_k: int, valid: Tensor | None = None) -> LoadBalance:
    """``E * sum_e f_e P_e``, f_e the mean number of tokens sent to expert e, P_e its mean router probability.

    Fedus et al. 2022, "Switch Transformers", eq. 4 to 6, with top-k routing as in Mixtral (Jiang et al. 2024); means
    are over the tokens of all layers. It is `top_k` where all experts are used alike and more where they are not.
    When to use: with every mixture of experts, times a small coefficient (0.001 in Mixtral).

    Args:
        router_logits: of each layer, ``[N, E]`` with N tokens (any leading shape of N values) and E experts.
        top_k: experts of a token.
        valid: bool, N values; False leaves a token (padding) out. Where none is valid, the loss is 0.

    Raises:
        InputError: there is no layer, `top_k` is not in ``1 .. E`` or `valid` has another size.
    """
    if not router_logits:
        raise InputError("router_logits is empty; one tensor [N, E] a layer is needed")
    layers = [logits.flatten(0, -2) for logits in router_logits]
    tokens, experts = layers[0].shape
    if not 1 <= top_k <= experts:
        raise InputError(f"top_k ({top_k}) must lie in 1 .. {experts}, the number of experts")
    if valid is not None and valid.numel() != tokens:
        raise InputError(f"valid has {valid.numel()} values, the router {tokens} tokens; give one value a token")
    weight = torch.ones_like(layers[0][:, 0]) if valid is None else valid.flatten().to(layers[0].dtype)  # [N]
    weight = weight.float()
    sent = weight.new_zeros(experts)  # [E]
    mass = weight.new_zeros(experts)  # [E]
    for logits in layers:
        probabilities = torch.softmax(logits.float(), dim=-1)  # [N, E]
        chosen = probabilities.topk(top_k, dim=-1).indices.flatten()  # [N * k]
        sent = sent.index_add(0, chosen, weight.repeat_interleave(top_k))
        mass = mass + weight @ probabilities
    total = (weight.sum() * len(layers)).clamp(min=1)
    loss = experts * (sent / total) @ (mass / total)
    return LoadBalance(loss, sent / (total * top_k))
