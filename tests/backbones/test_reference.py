"""Every backbone equals its formulas, written out plainly in `tests.backbones.reference`."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.backbones import reference
from tests.backbones.cases import SIZE, make, make_times, run

STEPS = 7
REFERENCES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "llama": lambda m, x: reference.llama(m.model, x),
    "qwen3": lambda m, x: reference.llama(m.model, x),
    "mixtral": lambda m, x: reference.llama(m.model, x),
    "gpt2": lambda m, x: reference.gpt2(m.model, x),
    "bert": lambda m, x: reference.bert(m.model, x),
    "xlnet": lambda m, x: reference.xlnet(m.model, x),
    "sasrec": lambda m, x: reference.sasrec(m, x, "pre"),
    "sasrec_post": lambda m, x: reference.sasrec(m, x, "post"),
    "sasrec_query": lambda m, x: reference.sasrec(m, x, "query"),
    "ligr": reference.ligr,
    "hstu_without_times": lambda m, x: reference.hstu(m, x, None),
    "gru": reference.gru,
}


@pytest.mark.parametrize("case", REFERENCES)
@torch.no_grad()
def test_states_are_those_of_the_formulas(case: str) -> None:
    model = make(case)
    vectors = torch.randn(2, STEPS, SIZE)
    found = run(model, vectors, [STEPS, 4])
    for row, length in enumerate([STEPS, 4]):
        expected = REFERENCES[case](model, vectors[row, :length].double())
        assert expected.std() > 0.05
        torch.testing.assert_close(found[row, :length].double(), expected, rtol=1e-3, atol=2e-4)


@torch.no_grad()
def test_rope_theta_reaches_the_model() -> None:
    vectors = torch.randn(1, STEPS, SIZE)
    model = make("llama", rope_theta=100.0)
    expected = reference.llama(model.model, vectors[0].double(), theta=100.0)
    torch.testing.assert_close(run(model, vectors, [STEPS])[0].double(), expected, rtol=1e-3, atol=2e-4)


@torch.no_grad()
def test_t5_encodes_the_sequence_and_decodes_it_from_a_start_vector() -> None:
    model = make("t5")
    for steps in (1, 12):
        vectors = torch.randn(1, steps, SIZE)
        memory = reference.t5_stack(model.model.encoder, vectors[0].double(), None)
        shifted = torch.cat((model.start[None], vectors[0, :-1])).double()
        expected = reference.t5_stack(model.model.decoder, shifted, memory)
        torch.testing.assert_close(run(model, vectors, [steps])[0].double(), expected, rtol=1e-3, atol=5e-4)


@torch.no_grad()
def test_hstu_reads_the_time_between_events() -> None:
    model = make("hstu")
    vectors = torch.randn(1, STEPS, SIZE)
    times = make_times(vectors)
    expected = reference.hstu(model, vectors[0].double(), times[0].tolist())
    torch.testing.assert_close(run(model, vectors, [STEPS], times)[0].double(), expected, rtol=1e-3, atol=2e-4)
    closer = times // 1000
    assert (run(model, vectors, [STEPS], closer) - run(model, vectors, [STEPS], times)).abs().max() > 1e-3
    moved = times + 10**15  # what counts is the time between
    torch.testing.assert_close(run(model, vectors, [STEPS], moved), run(model, vectors, [STEPS], times))


@torch.no_grad()
def test_xlnets_query_stream_follows_the_order_and_never_sees_itself() -> None:
    model = make("xlnet", permutation=True)
    vectors = torch.randn(1, STEPS, SIZE)
    order = torch.tensor([3, 0, 5, 1, 6, 2, 4])
    context = torch.tensor([True, True, False, False, False, False, False])[order]  # two that all others see
    seen = (context[None, :] | (order[None, :] < order[:, None])) & ~torch.eye(STEPS, dtype=torch.bool)
    found = model(vectors, torch.tensor([STEPS]), attention_mask=seen[None])
    expected = reference.xlnet(model.model, vectors[0].double(), lambda i, j: bool(seen[i, j]))
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-3, atol=2e-4)
