"""The LLaMA backbone: causal, indifferent to padding, grouped heads, dropout in training only."""

import pytest
import torch

from recsys.backbones.hf import LlamaBackbone


def make(**changes: object) -> LlamaBackbone:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 32}
    rest = {"max_length": 32, "rope_theta": 10_000.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
    model = LlamaBackbone(**{**sizes, **rest, **changes}).eval()
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)  # the default init is too small for attention to show
    return model


def test_a_later_event_never_changes_an_earlier_state():
    model = make()
    vectors = torch.randn(2, 9, 16)
    changed = vectors.clone()
    changed[:, 5:] += 1.0
    lengths = torch.tensor([9, 9])
    before, after = model(vectors, lengths), model(changed, lengths)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().max() > 1e-3


def test_states_do_not_depend_on_padding_or_neighbours():
    model = make()
    vectors = torch.randn(3, 12, 16)
    together = model(vectors, torch.tensor([12, 7, 4]))
    for row, length in enumerate((12, 7, 4)):
        alone = model(vectors[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[row, :length], alone[0], rtol=1e-4, atol=1e-4)


def test_order_matters():
    model = make()
    vectors = torch.randn(1, 6, 16)
    swapped = vectors[:, [1, 0, 2, 3, 4, 5]]
    lengths = torch.tensor([6])
    assert (model(vectors, lengths)[0, -1] - model(swapped, lengths)[0, -1]).abs().max() > 1e-4


def test_residual_dropout_acts_in_training_only():
    model = make(residual_dropout=0.5)
    vectors, lengths = torch.randn(1, 6, 16), torch.tensor([6])
    torch.testing.assert_close(model(vectors, lengths), make()(vectors, lengths))
    model.train()
    assert (model(vectors, lengths) - model(vectors, lengths)).abs().max() > 1e-3


def test_it_is_the_llama_that_was_asked_for():
    model = make()
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (16, 16)
    assert attention.k_proj.weight.shape == (8, 16)
    assert model.model.layers[0].mlp.gate_proj.weight.shape == (32, 16)
    assert not any("embed_tokens" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("length", [1, 2])
def test_short_sequences_work(length):
    assert make()(torch.randn(1, length, 16), torch.tensor([length])).shape == (1, length, 16)
