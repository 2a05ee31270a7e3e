"""Configuration to objects: what is asked for is what is built, what cannot be is refused in a line."""

import numpy as np
import pytest

from recsys.build import attach_text, build_catalogue_loss, build_masking, build_model
from recsys.config import LossConfig, ModelConfig, parse
from recsys.errors import ConfigError
from recsys.losses import CrossEntropy, Focal
from recsys.nn.fusion import SelfAttentionFusion, SumFusion
from tests.data.models import make_model
from tests.data.sequences import make_items, make_schema


def build(**changes: object) -> object:
    return build_model(parse(ModelConfig, changes, "test"), make_schema(), make_items())


def test_defaults_follow_the_document():
    model = build()
    assert list(model.heads) == ["item_id", "classification"]
    assert model.weights == {"item_id": 1.0, "classification": 0.5}
    assert all(isinstance(head.loss_function, Focal) and head.loss_function.gamma == 2 for head in model.heads.values())
    assert all(head.bias is None for head in model.heads.values())
    assert isinstance(model.inputs.fusion, SelfAttentionFusion)
    assert model.inputs.item_attributes == ["classification"]
    assert model.inputs.event_categorical == ["cat"]
    assert model.inputs.event_continuous == ["timestamp_interval", "merge_count"]


def test_choices_are_followed():
    model = make_model(
        inputs={"fusion": "sum", "streams": ["classification"]},
        tied=True,
        auxiliary=[],
        loss={"name": "cross_entropy", "label_smoothing": 0.1},
    )
    assert isinstance(model.inputs.fusion, SumFusion)
    assert model.inputs.event_categorical == model.inputs.event_continuous == []
    assert list(model.heads) == ["item_id"]
    assert model.heads["item_id"].weight is None
    assert isinstance(model.heads["item_id"].loss_function, CrossEntropy)


def test_paper_size_counts_its_parameters():
    """The backbone's size follows from the formula: 2 layers of 2048 with 8 of 32 key-value heads, SwiGLU 8192."""
    config = {"hidden_size": 64, "num_layers": 2, "num_heads": 8, "num_kv_heads": 2, "intermediate_size": 256}
    backbone = build(backbone=config).backbone
    attention = 64 * 64 * 2 + 2 * 64 * 16
    expected = 2 * (attention + 3 * 64 * 256 + 2 * 64) + 64
    assert sum(p.numel() for p in backbone.parameters()) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"streams": ["clas"]}}, "the data have no 'clas'"),
        ({"auxiliary": [{"column": "item_id"}]}, "'item_id' is the main head already"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)


def test_an_auxiliary_column_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="no column 'classificaton' .did you mean 'classification'"):
        build(auxiliary=[{"column": "classificaton"}])


def test_a_text_table_becomes_a_column_and_a_stream(tmp_path):
    table = np.random.default_rng(0).normal(size=(15, 6)).astype("float32")
    table[:3] = 0
    np.save(tmp_path / "text.npy", table)
    config = parse(ModelConfig, {"inputs": {"text_table": str(tmp_path / "text.npy")}}, "test")
    schema, vectors = attach_text(config.inputs, make_schema())
    assert schema["text"].dimension == 6
    model = build_model(config, schema, make_items(), vectors)
    reloaded = build_model(config, schema, make_items())
    reloaded.load_state_dict(model.state_dict())
    assert (reloaded.inputs.pretrained.table.numpy() == table).all()
    assert attach_text(ModelConfig().inputs, make_schema()) == (make_schema(), None)


def test_maskings_by_name():
    assert build_masking("causal") is not None
    with pytest.raises(ConfigError, match="unknown 'casual' .did you mean 'causal'"):
        build_masking("casual")


def test_loss_settings_reach_the_loss():
    loss = build_catalogue_loss(LossConfig(name="focal", gamma=1.5, dtype="bfloat16"), 3)
    assert (loss.gamma, loss.dtype, loss.ignore_rows) == (1.5, "bfloat16", 3)
