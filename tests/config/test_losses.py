"""Sections of losses: each has its own fields, and what old runs saved still loads."""

import re

import pytest
import yaml

from recsys.config import AuxiliaryConfig, LossConfig, ModelConfig, NegativesConfig, parse
from recsys.errors import ConfigError
from tests.readme import ROOT, blocks

VALUES = {
    "gamma": 1.0,
    "label_smoothing": 0.1,
    "dtype": "bfloat16",
    "class_weights": "inverse_frequency",
    "alpha": 0.3,
    "beta": 0.7,
    "exponent": 1.5,
    "negatives": {"num": 5},
    "log_q": False,
    "calibration": 0.5,
    "cross_rank": False,
    "max_cosine": 0.99,
    "delta": 2.0,
    "positive_weight": 3.0,
}


@pytest.mark.parametrize("name", LossConfig.FIELDS)
def test_a_loss_takes_its_own_fields_and_no_others(name: str) -> None:
    own = LossConfig.FIELDS[name]
    config = parse(ModelConfig, {"loss": {"name": name, **{f: VALUES[f] for f in own}}}, "test.yaml")
    assert set(config.loss.model_dump()) == {"name", *own}
    for field in VALUES.keys() - set(own):
        with pytest.raises(ConfigError) as caught:
            parse(ModelConfig, {"loss": {"name": name, field: VALUES[field]}}, "test.yaml")
        message = str(caught.value)
        assert message.startswith(f"test.yaml: loss: '{field}' is a setting of ") and "\n" not in message
        assert message.endswith(f", not of {name}; take it out, or set the section as a whole: {{name: {name}}}")


def test_all_fields_belong_to_a_loss() -> None:
    for section in (LossConfig, NegativesConfig):
        owned = {field for fields in section.FIELDS.values() for field in fields}
        assert owned == set(section.model_fields) - {"name"}


def test_what_is_saved_loads_again() -> None:
    loss = {"name": "sampled_softmax", "negatives": {"name": "mixed", "num": 64, "uniform_share": 0.25}}
    config = parse(ModelConfig, {"loss": loss, "auxiliary": [{"column": "cat"}]}, "test")
    again = parse(ModelConfig, config.model_dump(mode="json"), "test")
    assert again == config and again.model_dump() == config.model_dump()
    assert config.model_dump()["loss"]["negatives"] == loss["negatives"]


def test_runs_saved_when_every_field_was_written_still_load() -> None:
    """Also one whose loss was changed on the command line: its gamma meant nothing then and means nothing now."""
    saved = {"name": "cross_entropy", "gamma": 1.0, "label_smoothing": 0.1, "dtype": "float32"}
    auxiliary = [{"column": "timestamp_interval", "weight": 0.1, "loss": saved | {"name": "focal"}}]
    config = parse(ModelConfig, {"loss": saved, "auxiliary": auxiliary}, "config.yaml")
    assert (config.loss.name, config.loss.label_smoothing) == ("cross_entropy", 0.1)
    assert config.auxiliary[0].loss.gamma == 1.0
    assert config.loss.is_old() and not LossConfig(name="focal", gamma=1.0).is_old()
    assert "gamma" not in config.model_dump()["loss"]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "tversky", "alpha": 0, "beta": 0}, "loss: alpha and beta must not both be 0"),
        ({"name": "gbce", "negatives": {"name": "popularity"}}, "gbce is calibrated for uniform negatives"),
        ({"name": "gbce", "calibration": 1.1}, "loss.calibration: 1.1: Input should be less than or equal to 1"),
        ({"class_weights": "balanced"}, "class_weights are 'inverse_frequency' or a list"),
        (
            {"name": "bce", "negatives": {"power": 0.5}},
            "loss.negatives: 'power' is a setting of popularity, not of uniform",
        ),
        ({"name": "bce", "negatives": {"num": 0}}, "loss.negatives.num: 0: Input should be greater than or equal to 1"),
        ({"name": "huber", "delta": 0}, "loss.delta: 0: Input should be greater than 0"),
        ({"gama": 2}, "unknown key 'loss.gama' .did you mean 'gamma'"),
    ],
)
def test_bad_settings_are_one_line(loss: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(ModelConfig, {"loss": loss}, "test")
    assert "\n" not in str(caught.value)


def test_temperature_of_nothing_is_refused() -> None:
    for bad in (0, -1, float("inf")):
        with pytest.raises(ConfigError, match=r"test: temperature: .*: Input should be"):
            parse(ModelConfig, {"temperature": bad}, "test")


def test_defaults_mean_what_they_meant() -> None:
    model, head = ModelConfig(), AuxiliaryConfig(column="x")
    assert model.loss.model_dump() == {"name": "focal", "gamma": 2.0, "dtype": "float32", "class_weights": None}
    assert (model.similarity, model.temperature, model.learn_temperature) == ("dot", 1.0, False)
    assert model.task_weights == "fixed" and (head.weight, head.kind, head.loss) == (0.5, None, None)


def test_the_page_shows_every_loss_with_its_fields_and_settings_that_load() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^\| loss \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    shown = {row[0].strip("`"): tuple(re.findall(r"`(\w+)`", row[2])) for row in rows}
    assert shown == LossConfig.FIELDS
    models = [yaml.safe_load(text)["model"] for text in blocks(page, "yaml")]
    (settings,) = [values for values in models if "loss" in values]
    model = parse(ModelConfig, settings, "page")
    changed = model.model_dump(exclude={"loss", "auxiliary"})
    assert changed == ModelConfig().model_dump(exclude={"loss", "auxiliary"})
