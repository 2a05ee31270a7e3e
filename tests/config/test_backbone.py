"""Section model.backbone: what a backbone has no use for is refused, what is saved is read back."""

import pytest

from recsys.config import BackboneConfig, RunConfig, load_config, parse, save_config
from recsys.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "gru", "num_heads": 2},
            r"num_heads is nothing that gru has \(it belongs to llama, .*\); leave it out",
        ),
        ({"name": "llama", "norm": "post"}, r"norm is nothing that llama has \(it belongs to sasrec\); leave it out"),
        ({"name": "sasrec", "pretrained": "x"}, r"pretrained is nothing that sasrec has \(.*bert.*\); leave it out"),
        ({"name": "bert", "router_loss": 0.1}, r"router_loss is nothing that bert has \(it belongs to mixtral\)"),
        ({"name": "t5", "attention_dropout": 0.1}, "attention_dropout is nothing that t5 has"),
        ({"name": "auto", "pretrained": "x", "residual_dropout": 0.1}, r"\(the architecture has its own\)"),
        ({"name": "auto"}, "auto wants pretrained or architecture"),
        ({"name": "llama", "pretrained": "x", "num_heads": 8}, "num_heads comes with the architecture; leave it out"),
        ({"name": "bert", "hidden_size": 1024, "num_heads": 12}, r"num_heads \(12\) must divide hidden_size \(1024\)"),
        ({"name": "qwen3", "hidden_size": 12, "num_heads": 4}, "must be even for rotary positions"),
        ({"name": "xlnet", "hidden_size": 9, "num_heads": 3}, r"hidden_size \(9\) must be even"),
        (
            {"name": "mixtral", "num_experts": 2, "experts_per_token": 3},
            r"experts_per_token \(3\) is above num_experts",
        ),
        ({"name": "hstu", "time_buckets": -1}, "time_buckets: -1"),
        ({"name": "lama"}, "name: 'lama'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(BackboneConfig, values, "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llama", "mixtral", "t5", "sasrec", "ligr", "hstu", "gru"])
def test_a_saved_configuration_is_read_back(name, tmp_path) -> None:
    """Every value is written, also those that the backbone has no use for."""
    config = parse(RunConfig, {"model": {"backbone": {"name": name, "hidden_size": 32}}}, "test")
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_feed_forward_sizes_are_the_usual_ones() -> None:
    sizes = {n: BackboneConfig(name=n, hidden_size=64).feed_forward_size() for n in ("llama", "sasrec", "mixtral")}
    assert sizes == {"llama": 256, "sasrec": 64, "mixtral": 224}
    assert BackboneConfig(name="ligr", intermediate_size=96).feed_forward_size() == 96


def test_times_are_wanted_by_hstu_alone() -> None:
    assert BackboneConfig(name="hstu").needs_times
    assert not BackboneConfig(name="hstu", time_buckets=0).needs_times
    assert not BackboneConfig().needs_times
