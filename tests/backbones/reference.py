"""Backbones once more, written out event by event and head by head in float64, from the papers' formulas."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Score = Callable[[int, int, int], float | Tensor]


def linear(x: Tensor, layer: nn.Module) -> Tensor:
    out = x @ layer.weight.double().T
    return out if layer.bias is None else out + layer.bias.double()


def layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    scaled = (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return scaled * norm.weight.double() + norm.bias.double()


def rms_norm(x: Tensor, norm: nn.Module) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight.double()


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attend(
    q: Tensor, k: Tensor, v: Tensor, sees: Callable[[int, int], bool], scale: float, bias: Score | None = None
) -> Tensor:
    """q ``[T, h, d]``, k and v ``[S, g, d]`` (g divides h) to ``[T, h * d]``: softmax attention, pair by pair."""
    steps, heads, size = q.shape
    shared = heads // k.shape[1]
    out = torch.zeros(steps, heads, size, dtype=torch.float64)
    for i in range(steps):
        for head in range(heads):
            seen = [j for j in range(len(k)) if sees(i, j)]
            logits = [q[i, head] @ k[j, head // shared] * scale + (bias(head, i, j) if bias else 0.0) for j in seen]
            weights = torch.stack(logits).exp()
            out[i, head] = sum(w * v[j, head // shared] for w, j in zip(weights / weights.sum(), seen, strict=True))
    return out.flatten(1)


def causal(i: int, j: int) -> bool:
    return j <= i


def everything(i: int, j: int) -> bool:
    return True


def rotate(x: Tensor, theta: float) -> Tensor:
    """Rotary positions of ``[T, h, d]``: the pair (n, n + d/2) is turned by ``t * theta^(-2n/d)``."""
    out = x.clone()
    half = x.shape[-1] // 2
    for t in range(len(x)):
        for n in range(half):
            angle = t * theta ** (-n / half)
            a, b = x[t, :, n], x[t, :, n + half]
            out[t, :, n] = a * math.cos(angle) - b * math.sin(angle)
            out[t, :, n + half] = a * math.sin(angle) + b * math.cos(angle)
    return out


def llama(model: nn.Module, x: Tensor, theta: float = 10_000.0) -> Tensor:
    """LLaMA, Qwen3 (norms on queries and keys) and Mixtral (experts): ``[T, H]`` to ``[T, H]``."""
    size = model.config.hidden_size // model.config.num_attention_heads
    for layer in model.layers:
        block, normed = layer.self_attn, rms_norm(x, layer.input_layernorm)
        q, k, v = (linear(normed, p).unflatten(-1, (-1, size)) for p in (block.q_proj, block.k_proj, block.v_proj))
        if hasattr(block, "q_norm"):
            q, k = rms_norm(q, block.q_norm), rms_norm(k, block.k_norm)
        x = x + linear(attend(rotate(q, theta), rotate(k, theta), v, causal, size**-0.5), block.o_proj)
        normed = rms_norm(x, layer.post_attention_layernorm)
        if hasattr(layer.mlp, "experts"):
            x = x + torch.stack([experts(layer.mlp, event) for event in normed])
        else:
            mlp = layer.mlp
            x = x + linear(silu(linear(normed, mlp.gate_proj)) * linear(normed, mlp.up_proj), mlp.down_proj)
    return rms_norm(x, model.norm)


def experts(block: nn.Module, x: Tensor) -> Tensor:
    """One event ``[H]`` through its two best experts, weighted by the router's renormalised probabilities."""
    gates = (block.gate.weight.double() @ x).softmax(0)
    best = sorted(range(len(gates)), key=lambda e: -float(gates[e]))[: block.gate.top_k]
    out = torch.zeros_like(x)
    for expert in best:
        gate, up = (block.experts.gate_up_proj[expert].double() @ x).chunk(2)
        out += gates[expert] / gates[best].sum() * (block.experts.down_proj[expert].double() @ (silu(gate) * up))
    return out


def gpt2(model: nn.Module, x: Tensor) -> Tensor:
    heads = model.config.n_head
    x = x + model.wpe.weight[: len(x)].double()
    for layer in model.h:
        normed = layer_norm(x, layer.ln_1)
        qkv = normed @ layer.attn.c_attn.weight.double() + layer.attn.c_attn.bias.double()
        q, k, v = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, dim=-1))
        mixed = attend(q, k, v, causal, q.shape[-1] ** -0.5)
        x = x + mixed @ layer.attn.c_proj.weight.double() + layer.attn.c_proj.bias.double()
        inner = layer_norm(x, layer.ln_2) @ layer.mlp.c_fc.weight.double() + layer.mlp.c_fc.bias.double()
        x = x + gelu_tanh(inner) @ layer.mlp.c_proj.weight.double() + layer.mlp.c_proj.bias.double()
    return layer_norm(x, model.ln_f)


def bert(model: nn.Module, x: Tensor) -> Tensor:
    table = model.embeddings
    x = x + table.position_embeddings.weight[: len(x)].double() + table.token_type_embeddings.weight[0].double()
    x = layer_norm(x, table.LayerNorm)
    for layer in model.encoder.layer:
        own = layer.attention.self
        q, k, v = (
            linear(x, p).unflatten(-1, (model.config.num_attention_heads, -1)) for p in (own.query, own.key, own.value)
        )
        mixed = linear(attend(q, k, v, everything, q.shape[-1] ** -0.5), layer.attention.output.dense)
        x = layer_norm(x + mixed, layer.attention.output.LayerNorm)
        fed = linear(gelu(linear(x, layer.intermediate.dense)), layer.output.dense)
        x = layer_norm(x + fed, layer.output.LayerNorm)
    return x


def t5_bucket(distance: int, both_ways: bool) -> int:
    """32 buckets of ``j - i``: exact up to a quarter (both ways) or half of them, then by logarithm up to 128."""
    buckets, start = 32, 0
    if both_ways:
        buckets //= 2
        start = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(0, -distance)
    exact = buckets // 2
    if distance < exact:
        return start + distance
    return start + min(buckets - 1, exact + int(math.log(distance / exact) / math.log(128 / exact) * (buckets - exact)))


def t5_stack(stack: nn.Module, x: Tensor, memory: Tensor | None) -> Tensor:
    """Encoder, or with the encoder's states ``[T, H]`` the decoder."""
    heads, decodes = stack.config.num_heads, memory is not None
    table = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.double()

    def mix(block: nn.Module, queries: Tensor, keys: Tensor, sees: Callable, bias: Score | None) -> Tensor:
        q, k, v = (
            linear(y, p).unflatten(-1, (heads, -1)) for y, p in ((queries, block.q), (keys, block.k), (keys, block.v))
        )
        return linear(attend(q, k, v, sees, 1.0, bias), block.o)

    for block in stack.block:
        own = block.layer[0]
        normed = rms_norm(x, own.layer_norm)
        sees = causal if decodes else everything
        x = x + mix(own.SelfAttention, normed, normed, sees, lambda h, i, j: table[t5_bucket(j - i, not decodes), h])
        if memory is not None:
            cross = block.layer[1]
            x = x + mix(cross.EncDecAttention, rms_norm(x, cross.layer_norm), memory, everything, None)
        last = block.layer[-1]
        dense = last.DenseReluDense
        x = x + linear(linear(rms_norm(x, last.layer_norm), dense.wi).clamp(min=0), dense.wo)
    return rms_norm(x, stack.final_layer_norm)


def xlnet(model: nn.Module, x: Tensor, sees: Callable[[int, int], bool] | None = None) -> Tensor:
    """The content stream ``[T, H]``, or with `sees` the query stream, in which no event knows itself."""
    size = model.config.d_model
    frequency = [10_000 ** (-n / size) for n in range(0, size, 2)]
    g = None if sees is None else model.mask_emb[0].double().expand(len(x), -1)
    for layer in model.layer:
        block = layer.rel_attn
        weights = {name: getattr(block, name).double() for name in "qkvor"}
        k, v = (torch.einsum("th,hnd->tnd", x, weights[n]) for n in "kv")
        far, near = block.r_r_bias.double(), block.r_w_bias.double()

        def step(
            stream: Tensor, rule: Callable[[int, int], bool], layer=layer, weights=weights, k=k, v=v, far=far, near=near
        ):
            q = torch.einsum("th,hnd->tnd", stream, weights["q"])

            def place(head: int, i: int, j: int) -> Tensor:
                wave = [(i - j) * f for f in frequency]
                sinusoid = torch.tensor([math.sin(w) for w in wave] + [math.cos(w) for w in wave], dtype=torch.float64)
                r = sinusoid @ weights["r"][:, head]
                return (near[head] @ k[j, head] + (q[i, head] + far[head]) @ r) * q.shape[-1] ** -0.5

            mixed = attend(q, k, v, rule, q.shape[-1] ** -0.5, place).unflatten(-1, q.shape[1:])
            out = torch.einsum("tnd,hnd->th", mixed, weights["o"])
            y = layer_norm(stream + out, layer.rel_attn.layer_norm)
            fed = linear(gelu(linear(y, layer.ff.layer_1)), layer.ff.layer_2)
            return layer_norm(y + fed, layer.ff.layer_norm)

        if sees is None:
            x = step(x, everything)
        else:
            x, g = step(x, lambda i, j: i == j or sees(i, j)), step(g, sees)
    return x if g is None else g


def native_attention(block: nn.Module, queries: Tensor, keys: Tensor) -> Tensor:
    q = linear(queries, block.query).unflatten(-1, (block.num_heads, -1))
    k, v = (part.unflatten(-1, (block.num_heads, -1)) for part in linear(keys, block.key_value).chunk(2, dim=-1))
    return linear(attend(q, k, v, causal, q.shape[-1] ** -0.5), block.output)


def sasrec(model: nn.Module, x: Tensor, order: str) -> Tensor:
    x = x + model.positions.weight[: len(x)].double()
    for layer in model.layers:

        def feed(y: Tensor, layer: nn.Module = layer) -> Tensor:
            return linear(linear(y, layer.feed_forward[0]).clamp(min=0), layer.feed_forward[-1])

        if order == "post":
            x = layer_norm(x + native_attention(layer.attention, x, x), layer.attention_norm)
            x = layer_norm(x + feed(x), layer.feed_forward_norm)
            continue
        normed = layer_norm(x, layer.attention_norm)
        if order == "pre":
            x = x + native_attention(layer.attention, normed, normed)
            x = x + feed(layer_norm(x, layer.feed_forward_norm))
        else:
            y = layer_norm(normed + native_attention(layer.attention, normed, x), layer.feed_forward_norm)
            x = y + feed(y)
    return x if order == "post" else layer_norm(x, model.norm)


def ligr(model: nn.Module, x: Tensor) -> Tensor:
    x = x + model.positions.weight[: len(x)].double()
    for layer in model.layers:
        normed = layer_norm(x, layer.attention_norm)
        x = x + torch.sigmoid(linear(x, layer.attention_gate)) * native_attention(layer.attention, normed, normed)
        normed = layer_norm(x, layer.feed_forward_norm)
        gate, up = linear(normed, layer.feed_forward.gate_up).chunk(2, dim=-1)
        x = x + torch.sigmoid(linear(x, layer.feed_forward_gate)) * linear(silu(gate) * up, layer.feed_forward.down)
    return x


def hstu(model: nn.Module, x: Tensor, times: list[int] | None) -> Tensor:
    """Without times the bias is of places alone; `times` in microseconds."""
    for layer in model.layers:
        heads = layer.num_heads
        u, v, q, k = silu(linear(layer_norm(x, layer.norm), layer.uvqk)).chunk(4, dim=-1)
        v, q, k = (part.unflatten(-1, (heads, -1)) for part in (v, q, k))
        mixed = torch.zeros_like(v)
        for i in range(len(x)):
            for head in range(heads):
                for j in range(i + 1):
                    score = q[i, head] @ k[j, head] + layer.place[i - j].double()
                    if times is not None:
                        seconds = max(1.0, (times[i] - times[j]) / 1e6)
                        score = score + layer.time[min(model.time_buckets - 1, int(math.log(seconds) / 0.301))].double()
                    mixed[i, head] += silu(score) / model.max_length * v[j, head]
        x = x + linear(layer_norm(mixed.flatten(1), layer.mixed_norm) * u, layer.output)
    return x


def gru(model: nn.Module, x: Tensor) -> Tensor:
    """Cho et al. 2014, with the reset gate inside as in PyTorch; a norm at the end."""
    for layer in range(model.gru.num_layers):
        names = [f"{kind}_{part}_l{layer}" for part in ("ih", "hh") for kind in ("weight", "bias")]
        w, b, r, c = (getattr(model.gru, name).double() for name in names)
        state, states = torch.zeros(x.shape[1], dtype=torch.float64), []
        for event in x:
            given, kept = (w @ event + b).chunk(3), (r @ state + c).chunk(3)
            reset, update = torch.sigmoid(given[0] + kept[0]), torch.sigmoid(given[1] + kept[1])
            state = (1 - update) * torch.tanh(given[2] + reset * kept[2]) + update * state
            states.append(state)
        x = torch.stack(states)
    return layer_norm(x, model.norm)
