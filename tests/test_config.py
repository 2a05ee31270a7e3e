"""Strict configuration: errors are one line with the key, the value and the fix."""

import pytest

from recsys.config import RunConfig, load_config, override, parse, read_yaml, save_config
from recsys.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("traning: {}", r"unknown key 'traning' \(did you mean 'training'\?\)"),
        ("training: {epoch: 3}", r"unknown key 'training.epoch' \(did you mean 'epochs'\?\)"),
        ("model: {auxiliary: [{column: a, wieght: 1}]}", r"wieght' \(did you mean 'weight'\?\)"),
        (
            "model: {inputs: {fusion_heads: 7, fusion_size: 256}}",
            r"fusion_heads \(7\) must divide fusion_size \(256\); try 8",
        ),
        (
            "model: {backbone: {num_heads: 7, hidden_size: 256}}",
            r"num_heads \(7\) must divide hidden_size \(256\); try 8",
        ),
        (
            "model: {backbone: {num_heads: 8, num_kv_heads: 3}}",
            r"num_kv_heads \(3\) must divide num_heads \(8\); try [24]",
        ),
        ("training: {learning_rate: -1}", "training.learning_rate: -1"),
        ("model: {inputs: {dropout: 1.0}}", "model.inputs.dropout"),
        ("etl: {chunk: {min_items: 20, max_items: 10}}", r"min_items \(20\) is above max_items \(10\)"),
        ("etl: {categorical: {cat: {topk: 3}}}", r"unknown key 'etl.categorical.cat.topk' \(did you mean 'top_k'\?\)"),
        ("etl: {categorical: {cat: {vocabulary: v.txt, min_count: 2}}}", "a given vocabulary is used whole"),
        ("etl: {categorical: {cat: {vocabulary_column: v}}}", "vocabulary_column without vocabulary"),
        ("etl: {bucketise: {x: {quantiles: 3, boundaries: [1]}}}", "give either boundaries or quantiles"),
        ("etl: {bucketise: {x: {boundaries: [2, 1]}}}", r"boundaries \[2.0, 1.0\] must be ascending"),
        ("etl: {bucketise: {x: {boundaries: [.inf]}}}", "etl.bucketise.x.boundaries.0: inf: .*finite"),
        ("etl: {time: {zone: Mars/Crater}}", "etl.time.zone: 'Mars/Crater': no such time zone"),
        ("- a\n- b", "expected 'key: value' lines"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")


def test_settings_override_the_file(tmp_path):
    path = write(tmp_path, "training: {epochs: 3}\nseed: 1")
    config = load_config(path, ["training.epochs=5", "model.backbone.hidden_size=64", "profile=visual_studio"])
    assert (config.training.epochs, config.seed) == (5, 1)
    assert config.model.backbone.hidden_size == 64
    assert config.profile == "visual_studio"


@pytest.mark.parametrize("setting", ["epochs", "=3", "seed.x=1", "seed=[1"])
def test_malformed_settings_are_refused(setting):
    with pytest.raises(ConfigError, match="--set"):
        override({"seed": 1}, [setting])


def test_override_leaves_its_argument_alone():
    values = {"training": {"epochs": 3}}
    assert override(values, ["training.epochs=4"]) == {"training": {"epochs": 4}}
    assert values == {"training": {"epochs": 3}}


def test_what_is_saved_reads_back_equal(tmp_path):
    config = parse(RunConfig, {"seed": 7, "etl": {"chunk": {"min_items": 5}}, "model": {"tied": True}}, "test")
    path = tmp_path / "config.yaml"
    save_config(config, path)
    assert load_config(path) == config
    assert "batch_size" in read_yaml(path)["training"]
