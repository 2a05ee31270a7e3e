"""Where pretrained weights are, and the hash that stands for them."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from recsys.backbones.source import Source, find, fingerprint, read_architecture, read_model, weight_files
from recsys.errors import ConfigError

LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 32}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model("llama", **LLAMA)).float().save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def write_gguf(file: Path) -> dict[str, torch.Tensor]:
    """A LLaMA of one layer, unquantised, by the format's own writer; returns its matrices by the name they get."""
    import gguf

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(8)])
    shapes = {"ffn_gate": (48, 32), "ffn_up": (48, 32), "ffn_down": (32, 48)}
    shapes |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (32, 32))
    kept = {}
    for name, shape in shapes.items():
        kept[name] = rng.standard_normal(shape).astype(np.float32)
        writer.add_tensor(f"blk.0.{name}.weight", kept[name])
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, dtype=np.float32))
    writer.add_tensor("token_embd.weight", rng.standard_normal((8, 32)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {f"layers.0.mlp.{n.removeprefix('ffn_')}_proj.weight": torch.from_numpy(kept[n]) for n in kept if "ffn" in n}


def test_the_hash_is_of_the_weights_and_of_nothing_else(folder: Path, tmp_path: Path) -> None:
    one = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert fingerprint(str(folder)) == hashlib.sha256(f"{one}\n".encode()).hexdigest()
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    (moved / "README.md").write_text("words")
    assert fingerprint(str(moved)) == fingerprint(str(folder))
    raw = bytearray((moved / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (moved / "model.safetensors").write_bytes(raw)
    assert fingerprint(str(moved)) != fingerprint(str(folder))


def test_all_shards_count(folder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    files = weight_files(str(tmp_path / "sharded"))
    assert len(files) > 1 and files == sorted((tmp_path / "sharded").glob("model-*.safetensors"))
    before = fingerprint(str(tmp_path / "sharded"))
    raw = bytearray(files[-1].read_bytes())
    raw[-1] ^= 1
    files[-1].write_bytes(raw)
    assert fingerprint(str(tmp_path / "sharded")) != before


def test_a_gguf_file_is_found_by_itself(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "tiny.gguf"
    expected = write_gguf(file)
    for named in (file, tmp_path / "a"):
        assert find(str(named)) == Source(str(tmp_path / "a"), "tiny.gguf")
        assert weight_files(str(named)) == [file]
    architecture = read_architecture(str(file))
    assert (architecture["model_type"], architecture["hidden_size"]) == ("llama", 32)
    model, missing = read_model(str(file), architecture, {})
    assert not missing
    for name, tensor in expected.items():
        torch.testing.assert_close(model.state_dict()[name], tensor)
    shutil.copyfile(file, tmp_path / "a" / "other.gguf")
    with pytest.raises(ConfigError, match=r"a holds other.gguf, tiny.gguf; name one of them"):
        find(str(tmp_path / "a"))
    shutil.copyfile(file, folder / "tiny.gguf")
    assert find(str(folder)) == Source(str(folder), None)  # the folder's own weights come first


def test_a_gguf_file_without_the_package_names_what_installs_it(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"needs the package gguf; pip install 'recsys\[llm\]'"):
        read_architecture(str(tmp_path / "tiny.gguf"))


def test_weights_are_read_without_drawing_any(folder: Path) -> None:
    state = torch.get_rng_state()
    model, missing = read_model(str(folder), read_architecture(str(folder)), {"attention_dropout": 0.25})
    assert torch.equal(torch.get_rng_state(), state) and not missing
    assert model.config.attention_dropout == 0.25 and not model.config.use_cache
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights that transformers can read"):
        fingerprint(str(folder))
    with pytest.raises(ConfigError, match="no weights that transformers can read"):
        read_model(str(folder), {}, {})


def test_a_model_in_which_nothing_is_quantised_is_refused(folder: Path) -> None:
    from transformers import BitsAndBytesConfig

    whole = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    model, _ = read_model(str(folder), read_architecture(str(folder)), {}, quantization=whole)
    assert any(p.dtype == torch.int8 for p in model.parameters())
    nothing = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=["layers"])
    with pytest.raises(ConfigError, match=r"no linear layer to quantise; set model\.peft\.quantization to none$"):
        read_model(str(folder), read_architecture(str(folder)), {}, quantization=nothing)
