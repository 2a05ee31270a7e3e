"""Shapes of the models of `transformers`: our sizes to their configurations."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers import AutoConfig, AutoModel, PreTrainedModel

from recsys.errors import ConfigError, one_line

NO_WORDS = {"vocab_size": 1, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "use_cache": False}
"""Vectors come in, so there is no vocabulary."""
PADDED = ("roberta", "xlm-roberta", "camembert", "data2vec-text", "xmod", "longformer")
"""Architectures whose positions count from the id of padding, which they therefore keep."""


class Sizes(NamedTuple):
    """What architectures share: H, layers, query heads, width of the feed-forward block, positions."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_length: int


def llama(sizes: Sizes, num_kv_heads: int, rope_theta: float) -> dict[str, Any]:
    """Values of LlamaConfig, and of its relatives Mixtral and Qwen3."""
    return {
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": sizes.max_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
        "attn_implementation": "sdpa",
    }


def qwen3(sizes: Sizes, num_kv_heads: int, rope_theta: float) -> dict[str, Any]:
    """Values of Qwen3Config."""
    return llama(sizes, num_kv_heads, rope_theta) | {"head_dim": sizes.hidden_size // sizes.num_heads}


def mixtral(sizes: Sizes, num_kv_heads: int, rope_theta: float, experts: int, active: int) -> dict[str, Any]:
    """Values of MixtralConfig."""
    values = llama(sizes, num_kv_heads, rope_theta)
    return values | {"num_local_experts": experts, "num_experts_per_tok": active, "sliding_window": None}


def gpt2(sizes: Sizes) -> dict[str, Any]:
    """Values of GPT2Config."""
    return {
        "n_embd": sizes.hidden_size,
        "n_layer": sizes.num_layers,
        "n_head": sizes.num_heads,
        "n_inner": sizes.intermediate_size,
        "n_positions": sizes.max_length,
        "attn_implementation": "sdpa",
    }


def bert(sizes: Sizes) -> dict[str, Any]:
    """Values of BertConfig; one token type."""
    return {
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "max_position_embeddings": sizes.max_length,
        "type_vocab_size": 1,
        "attn_implementation": "sdpa",
    }


def t5(sizes: Sizes) -> dict[str, Any]:
    """Values of T5Config: as many layers in the decoder as in the encoder."""
    return {
        "d_model": sizes.hidden_size,
        "d_kv": sizes.hidden_size // sizes.num_heads,
        "d_ff": sizes.intermediate_size,
        "num_layers": sizes.num_layers,
        "num_decoder_layers": sizes.num_layers,
        "num_heads": sizes.num_heads,
    }


def xlnet(sizes: Sizes) -> dict[str, Any]:
    """Values of XLNetConfig: bidirectional, no memory of earlier segments."""
    return {
        "d_model": sizes.hidden_size,
        "d_inner": sizes.intermediate_size,
        "n_layer": sizes.num_layers,
        "n_head": sizes.num_heads,
        "attn_type": "bi",
        "use_mems_eval": False,
        "use_mems_train": False,
    }


def dropouts(name: str, attention: float, residual: float) -> dict[str, float]:
    """What an architecture calls its dropouts; those that it lacks are added by hooks, or there are none."""
    match name:
        case "llama" | "qwen3" | "mixtral":
            return {"attention_dropout": attention}
        case "gpt2":
            return {"attn_pdrop": attention, "resid_pdrop": residual, "embd_pdrop": 0.0}
        case "bert":
            return {"attention_probs_dropout_prob": attention, "hidden_dropout_prob": residual}
        case "t5":
            return {"dropout_rate": residual}
        case "xlnet":
            return {"dropout": residual}
        case _:
            return {}


def fresh(model_type: str, values: Mapping[str, Any], changes: Mapping[str, Any]) -> PreTrainedModel:
    """A model without a head and with fresh weights, from a configuration's `values`, `changes` and no vocabulary."""
    rest = {key: value for key, value in values.items() if key not in ("model_type", "transformers_version")}
    words = dict(NO_WORDS)
    if model_type in PADDED:
        del words["pad_token_id"]
        words["vocab_size"] = 1 + int(rest.get("pad_token_id", 1))
    config = AutoConfig.for_model(model_type, **{**rest, **changes, **words})
    return AutoModel.from_config(config)


def sizes_of(architecture: Mapping[str, Any]) -> dict[str, int]:
    """`hidden_size` and `num_layers` of an architecture.

    Raises:
        ConfigError: its `model_type` is missing or unknown, or one of its values is not its.
    """
    values = {key: value for key, value in architecture.items() if key not in ("model_type", "transformers_version")}
    kind = architecture.get("model_type")
    if kind is None:
        raise ConfigError("model.backbone.architecture: has no model_type; give one, for instance model_type: gpt_neox")
    try:
        config = AutoConfig.for_model(str(kind), **values)
        return {"hidden_size": int(config.hidden_size), "num_layers": int(config.num_hidden_layers)}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(f"model.backbone.architecture: '{kind}' cannot be used ({one_line(error)})") from error
