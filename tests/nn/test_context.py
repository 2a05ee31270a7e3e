"""Context features against a sum written out."""

import torch

from recsys.nn.context import ContextFeatures


def test_columns_are_added_up():
    torch.manual_seed(0)
    context = ContextFeatures({"shop": 5, "version": 4}, ["age", "size"], 6)
    for parameter in context.parameters():
        torch.nn.init.normal_(parameter)
    inputs = {"shop": torch.tensor([[3, 3], [4, 4]]), "version": torch.tensor([[1, 1], [3, 3]])}
    inputs |= {"age": torch.randn(2, 2), "size": torch.randn(2, 2)}
    found = context(inputs)
    for b in range(2):
        for t in range(2):
            numbers = torch.stack([inputs["age"][b, t], inputs["size"][b, t]])
            expected = context.tables["shop"].weight[inputs["shop"][b, t]] + context.linear.weight @ numbers
            expected = expected + context.tables["version"].weight[inputs["version"][b, t]]
            torch.testing.assert_close(found[b, t], expected)


def test_at_first_ids_add_nothing():
    context = ContextFeatures({"shop": 5}, [], 6)
    assert context({"shop": torch.tensor([[3, 4]])}).abs().sum() == 0
