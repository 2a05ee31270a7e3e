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


def test_one_value_a_sequence_is_the_same_at_every_event():
    torch.manual_seed(0)
    context = ContextFeatures({"shop": 5, "version": 4}, ["age", "size"], 6)
    for parameter in context.parameters():
        torch.nn.init.normal_(parameter)
    once = {
        "shop": torch.tensor([3, 4]),
        "version": torch.tensor([1, 3]),
        "age": torch.randn(2),
        "size": torch.randn(2),
    }
    everywhere = {name: values[:, None].expand(2, 3) for name, values in once.items()}
    expected = context(everywhere)
    assert expected.shape == (2, 3, 6)
    torch.testing.assert_close(context(once).expand(2, 3, 6), expected)
    for name in once:  # some once, some at every event
        torch.testing.assert_close(context({**once, name: everywhere[name]}), expected)


def test_at_first_ids_add_nothing():
    context = ContextFeatures({"shop": 5}, [], 6)
    assert context({"shop": torch.tensor([[3, 4]])}).abs().sum() == 0
