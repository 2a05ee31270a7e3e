"""Embeddings: what padding gets, and that pretrained vectors stay as they are."""

import pytest
import torch

from recsys.nn.embedding import PretrainedTable, id_embedding


def test_padding_is_zero_and_gets_no_gradient():
    table = id_embedding(5, 3)
    assert table.weight[0].abs().sum() == 0
    table(torch.tensor([0, 1])).sum().backward()
    assert table.weight.grad[0].abs().sum() == 0
    assert table.weight.grad[1].tolist() == [1.0, 1.0, 1.0]


def test_a_pretrained_table_is_frozen_saved_and_looked_up():
    values = torch.randn(4, 2)
    table = PretrainedTable(values)
    torch.testing.assert_close(table(torch.tensor([[3, 0]])), values[[3, 0]].unsqueeze(0))
    assert not list(table.parameters())
    assert list(table.state_dict()) == ["table"]
    with pytest.raises(ValueError, match=r"\[items, width\], got \[4\]"):
        PretrainedTable(torch.zeros(4))
