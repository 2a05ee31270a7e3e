"""A tiny causal LM with random weights: without constraints it writes nonsense, so what fits is the decoding's work."""

import sys

import pytest

from data_processing.services.chat_local import LocalChat
from data_processing.services.json_schema import parse_object
from data_processing.services.protocols import ServiceError
from recsys.errors import InputError

SCHEMA = {
    "type": "object",
    "properties": {
        "summary": {"type": "string", "minLength": 1, "maxLength": 12},
        "classification": {"enum": ["Create", "Delete"]},
        "target": {"enum": ["Object", "Layer"]},
    },
    "required": ["summary", "classification", "target"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama of 2 layers, with a tokenizer of single bytes, saved as safetensors."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate(["<end>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1200,
        eos_token_id=0,
        bos_token_id=None,
    )
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(path)
    return path


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_fit_the_schema(folder, temperature):
    pytest.importorskip("llguidance")
    chat = LocalChat(folder, temperature, max_tokens=300)
    answers = {question: chat.answer("Say what it does.", question, SCHEMA) for question in ("Line", "Circle", "Arc")}
    for text in answers.values():
        parse_object(text, SCHEMA)
    if temperature:  # a fresh model gives the same answers to the same questions, and another one when asked again
        again = LocalChat(folder, temperature, max_tokens=300)
        for question, text in answers.items():
            assert again.answer("Say what it does.", question, SCHEMA) == text
        assert again.answer("Say what it does.", "Arc", SCHEMA) != answers["Arc"]
    assert chat.stats.tokens > 0 and chat.name.startswith("local:")


def test_without_constraints_it_does_not_fit(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    chat = LocalChat(folder, 0.0, max_tokens=40)
    assert chat.name.endswith(":free")
    with pytest.raises(ServiceError, match="not finished within 40 tokens|not JSON"):
        parse_object(chat.answer("Say what it does.", "Line", SCHEMA), SCHEMA)


def test_a_question_that_is_too_long(folder):
    with pytest.raises(ServiceError, match="the question has 1[0-9]{3} tokens, the model takes 1200"):
        LocalChat(folder, 0.0).answer("s", "x" * 1000, SCHEMA)


def test_an_answer_that_does_not_end(folder):
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 50}}, "required": ["a"]}
    with pytest.raises(ServiceError, match="not finished within 20 tokens"):
        LocalChat(folder, 0.0, max_tokens=20).answer("s", "u", schema)


def test_decoding_agrees_with_the_library(folder):
    """Greedy and unconstrained, the loop with its memory of past tokens writes what `generate` writes."""
    import torch

    chat = LocalChat(folder, 0.0, max_tokens=31)
    prompt = chat._prompt("s", "a question", SCHEMA)
    expected = chat._model.generate(prompt, max_new_tokens=30, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :]
    # The token that comes last for the first time is made the one that ends an answer.
    end = max(range(30), key=lambda at: (expected[at] not in expected[:at]) * at)
    assert end > 2
    chat._model.generation_config.eos_token_id = [int(expected[end])]
    with torch.inference_mode():
        assert chat._write(prompt, None, torch.Generator()) == expected[:end].tolist()


def test_folders_that_hold_no_single_model(tmp_path):
    with pytest.raises(InputError, match="holds no model"):
        LocalChat(tmp_path, 0.0)
    (tmp_path / "a.gguf").write_bytes(b"no model")
    (tmp_path / "b.gguf").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"several models \(a.gguf, b.gguf\)"):
        LocalChat(tmp_path, 0.0)
    with pytest.raises(InputError, match="not a loadable model"):
        LocalChat(tmp_path / "a.gguf", 0.0).answer("s", "u", SCHEMA)
