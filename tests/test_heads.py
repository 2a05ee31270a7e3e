"""Heads against plain logits."""

import torch
from torch.nn import functional

from recsys.heads import CatalogueHead, RealHead
from recsys.losses import CrossEntropy, MeanSquaredError


def test_scores_leave_reserved_ids_out_and_agree_with_the_loss():
    torch.manual_seed(0)
    head = CatalogueHead(hidden_size=6, cardinality=9, reserved=3, loss=CrossEntropy(ignore_rows=3), bias=True)
    torch.nn.init.normal_(head.bias)
    hidden, targets = torch.randn(5, 6), torch.tensor([3, 8, 4, 4, 7])
    scores = head.scores(hidden)
    assert torch.isinf(scores[:, :3]).all()
    torch.testing.assert_close(scores[:, 3:], (hidden @ head.weight.T + head.bias)[:, 3:])
    expected = functional.cross_entropy(scores[:, 3:], targets - 3, reduction="sum")
    output = head.loss(hidden, targets)
    torch.testing.assert_close(output.sum, expected)
    assert float(output.count) == 5


def test_a_tied_head_scores_with_the_projected_embedding():
    head = CatalogueHead(hidden_size=6, cardinality=9, reserved=3, loss=CrossEntropy(ignore_rows=3), tied_size=4)
    embedding, hidden = torch.randn(9, 4, requires_grad=True), torch.randn(2, 6)
    expected = hidden @ (embedding @ head.tied.weight.T).T
    torch.testing.assert_close(head.scores(hidden, embedding)[:, 3:], expected[:, 3:])
    head.loss(hidden, torch.tensor([3, 4]), embedding).sum.backward()
    assert embedding.grad.abs().sum() > 0


def test_a_real_head_predicts_one_number():
    head = RealHead(hidden_size=6, loss=MeanSquaredError())
    hidden, targets = torch.randn(4, 6), torch.randn(4)
    torch.testing.assert_close(head.loss(hidden, targets).sum, ((head.scores(hidden) - targets) ** 2).sum())
