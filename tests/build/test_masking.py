"""Names and settings to maskings: what is asked for is what hides, what cannot be is refused in a line."""

import pytest
import torch

from recsys.build import build_masking, validation_masking
from recsys.build.masking import positions_of
from recsys.config import MaskedConfig, ModelConfig, RunConfig, parse
from recsys.errors import ConfigError
from recsys.nn import masking
from recsys.nn.masking import RULES
from tests.data.sequences import make_items, make_schema

IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 4], [3, 4, 3, 0, 0, 0, 0]])
LENGTHS = torch.tensor([7, 3])


def built(name: str, **settings: object):
    config = parse(MaskedConfig, settings, "test")
    return build_masking(name, config, make_schema().item(), make_items())


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", RULES)
def test_every_name_is_the_function_of_that_name_with_its_settings(name):
    settings = {"probability": 0.6, "last_probability": 0.3, "mean_span": 2.0, "items": ["command 1"]}
    found = built(name, replacements="uniform", **settings)(IDS, LENGTHS, seeded())
    own = {
        "next_occurrence": {"wanted": torch.tensor([4])},
        "mlm": {"probability": 0.6, "last_probability": 0.3},
        "span": {"probability": 0.6, "last_probability": 0.3, "mean_span": 2.0},
        "permutation": {"probability": 0.6, "last_probability": 0.3, "mean_span": 2.0},
        "replaced": {"probability": 0.6, "last_probability": 0.3, "draw": masking.uniform_draw(3, 15)},
    }
    expected = getattr(masking, name)(IDS, LENGTHS, seeded(), **own.get(name, {}))
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_ids_are_drawn_as_asked():
    assert built("replaced")(IDS, LENGTHS, seeded()).replacement_ids is None  # the model draws
    drawn = built("replaced", replacements="popularity")(IDS, LENGTHS, seeded())
    assert (drawn.replacement_ids[drawn.input_mask] >= 3).all()


def test_items_to_wait_for_are_named():
    with pytest.raises(ConfigError, match="model.masked.items: masking 'next_occurrence' needs the names"):
        built("next_occurrence")
    with pytest.raises(ConfigError, match="the data have no item 'comand 1' .did you mean 'command 1'"):
        built("next_occurrence", items=["comand 1"])
    settings, table = MaskedConfig(items=["command 1"]), make_items().with_columns(count=0)
    with pytest.raises(ConfigError, match="training never saw any of them"):
        build_masking("next_occurrence", settings, make_schema().item(), table)


def test_validation_measures_what_training_teaches():
    final = built("final_value")
    assert validation_masking("final_value", final) is final
    assert validation_masking("mlm", built("mlm")) is masking.causal
    assert validation_masking("causal_last", built("causal_last")) is masking.causal


def test_a_hidden_event_takes_a_position_behind_the_history():
    assert positions_of(ModelConfig(max_length=20)) == 20
    assert positions_of(ModelConfig(max_length=20, masking="mlm")) == 21


def test_configurations_of_before_mean_what_they_meant():
    old = parse(RunConfig, {"model": {"masking": "causal_last"}}, "old")
    assert old.model.masking == "causal_last"
    assert old.model.masked == MaskedConfig()


@pytest.mark.parametrize("value", [0.0, 1.0, 1.5, float("nan")])
def test_a_probability_that_hides_none_or_all_is_refused(value):
    with pytest.raises(ConfigError, match="probability"):
        parse(MaskedConfig, {"probability": value}, "test")
