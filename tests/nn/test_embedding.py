"""Embeddings: what padding gets, and that pretrained vectors stay as they are."""

import pytest
import torch

from recsys.nn.embedding import BagEmbedding, ItemBags, PretrainedTable, id_embedding, start_from_vectors


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


def test_a_bag_is_the_mean_of_its_values():
    torch.manual_seed(0)
    bags = torch.tensor([[3, 4, 0], [5, 0, 0], [0, 0, 0]])
    module = ItemBags(bags, 6, 4)
    weight = module.values.table.weight
    expected = torch.stack([weight[5], (weight[3] + weight[4]) / 2, torch.zeros(4)])
    torch.testing.assert_close(module(torch.tensor([1, 0, 2])), expected)
    assert "bags" in module.state_dict()


def test_lists_one_after_the_other_give_what_padded_ones_give():
    torch.manual_seed(0)
    lists = [[3, 4], [], [5, 5, 1], [2], []]
    bag = BagEmbedding(6, 4)
    flat = torch.tensor([i for ids in lists for i in ids])
    offsets = torch.tensor([0, 2, 2, 5, 6, 6])
    found = bag.of_lists(flat, offsets)
    for row, ids in zip(found, lists, strict=True):
        expected = sum((bag.table.weight[i] for i in ids), torch.zeros(4)) / max(1, len(ids))
        torch.testing.assert_close(row, expected)
    probe = torch.randn(5, 4)
    padded = torch.tensor([ids + [0] * (3 - len(ids)) for ids in lists])
    ours = torch.autograd.grad((found * probe).sum(), bag.table.weight)
    torch.testing.assert_close(ours, torch.autograd.grad((bag(padded) * probe).sum(), bag.table.weight))


def test_nothing_but_empty_lists():
    bag = BagEmbedding(6, 4)
    found = bag.of_lists(torch.zeros(0, dtype=torch.long), torch.zeros(4, dtype=torch.long))
    assert found.shape == (3, 4) and not found.any()
    found.sum().backward()
    assert not bag.table.weight.grad.any()


def test_a_projected_table_is_frozen_and_its_map_learns():
    torch.manual_seed(0)
    values = torch.randn(4, 6)
    table = PretrainedTable(values, 2)
    found = table(torch.tensor([3, 1]))
    torch.testing.assert_close(found, values[[3, 1]] @ table.reduce.weight.T)
    assert [name for name, _ in table.named_parameters()] == ["reduce.weight"]


def test_an_embedding_starts_from_the_vectors_principal_components():
    torch.manual_seed(0)
    vectors = torch.randn(40, 3).double() @ torch.randn(3, 12).double()  # of rank 3
    vectors[:3] = 0
    vectors[7] = 0  # an item without text
    table = id_embedding(40, 8)
    before = table.weight.detach().clone()
    start_from_vectors(table, vectors.float(), 3)
    after, known = table.weight.detach(), [i for i in range(3, 40) if i != 7]
    assert (after[[0, 1, 2, 7]] == before[[0, 1, 2, 7]]).all()
    assert (after[:, 3:] == before[:, 3:]).all()
    assert float(after[known, :3].square().mean().sqrt()) == pytest.approx(0.02, rel=1e-4)
    far, near = (
        torch.cdist(vectors[known], vectors[known]),
        torch.cdist(after[known, :3].double(), after[known, :3].double()),
    )
    torch.testing.assert_close(near / near.max(), far / far.max(), rtol=1e-3, atol=1e-4)  # distances are kept


def test_zeros_start_nothing():
    table = id_embedding(5, 3)
    before = table.weight.detach().clone()
    start_from_vectors(table, torch.zeros(5, 4), 3)
    assert (table.weight == before).all()
