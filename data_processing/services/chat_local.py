"""A small causal language model in this process, whose answers are held to the schema while they are written."""

import json
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from data_processing.services.embed_local import folder_state
from data_processing.services.protocols import ServiceError, Stats
from recsys.errors import ConfigError, InputError, one_line

# Tensors are typed as Any: torch is loaded when a model is, never with this module.
MAX_TOKENS = 512  # of an answer


class LocalChat:
    """Any causal LM that transformers can load from a folder with safetensors, or with one GGUF file.

    Where llguidance is installed, only tokens that keep the answer inside the JSON schema can be chosen; give texts a
    ``maxLength`` there, since small models rarely end by themselves. Without it the schema stands in the prompt alone.
    The same question gives the same answer: sampling is seeded by the question.

    Args:
        folder: the model's folder; or the GGUF file.
        temperature: 0 takes the most probable token.
        max_tokens: an answer that is not finished by then is an error.
    """

    def __init__(self, folder: Path, temperature: float, max_tokens: int = MAX_TOKENS) -> None:
        files = [folder] if folder.suffix == ".gguf" else sorted(folder.glob("*.gguf"))
        if not (folder.is_file() if folder.suffix == ".gguf" else (folder / "config.json").is_file() or files):
            raise InputError(f"{folder}: holds no model (config.json with safetensors, or a .gguf file)")
        if len(files) > 1:
            raise InputError(f"{folder}: holds several models ({', '.join(f.name for f in files)}); name one as 'path'")
        self.folder = folder.parent if folder.suffix == ".gguf" else folder
        self._gguf = files[0].name if files else None
        self.temperature, self.max_tokens = temperature, max_tokens
        self.stats = Stats()
        self.name = f"local:{self._gguf or folder.name}:{folder_state(self.folder)}:t{temperature:g}:n{max_tokens}"
        if _llguidance() is None:
            self.name += ":free"
        self._asked: tuple[str, int] = ("", 0)  # the last question, and how often it was asked in a row

    def answer(self, system: str, user: str, schema: Mapping[str, Any]) -> str:
        """See `Chat`."""
        import torch

        prompt = self._prompt(system, user, schema)
        length = prompt.shape[1]
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and length + self.max_tokens > limit:
            raise ServiceError(
                f"{self.name}: the question has {length} tokens, the model takes {limit} with the answer"
            )
        times = self._asked[1] + 1 if self._asked[0] == system + user else 0
        self._asked = (system + user, times)
        # Asked again, since the answer did not fit, it must not answer the same.
        seed = zlib.crc32((system + user).encode("utf-8", "replace")) + times
        with torch.inference_mode():
            tokens = self._write(prompt, self._matcher(schema), torch.Generator().manual_seed(seed))
        self.stats.characters += len(system) + len(user)
        self.stats.tokens += length + len(tokens)
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _prompt(self, system: str, user: str, schema: Mapping[str, Any]) -> Any:
        """Tokens [1, T] of the question in the model's own form of a chat."""
        fit = system
        if (
            _llguidance() is None
        ):  # a schema in the prompt leads small models astray: only where nothing else holds them
            fit += f"\nAnswer with one JSON object that fits this JSON schema: {json.dumps(dict(schema))}"
        messages = [{"role": "system", "content": fit}, {"role": "user", "content": user}]
        if not self._tokenizer.chat_template:
            return self._tokenizer(f"{fit}\n\n{user}\n\n", return_tensors="pt")["input_ids"]
        encoded = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return encoded["input_ids"]

    def _write(self, prompt: Any, matcher: Any, generator: Any) -> list[int]:
        """Tokens of the answer, without the one that ends it. Memory of past tokens is kept: one token a step."""
        import torch

        ends = _ends(self._model, self._tokenizer)
        fed, past = prompt, None
        tokens: list[int] = []
        for _ in range(self.max_tokens):
            out = self._model(input_ids=fed, past_key_values=past, use_cache=True, logits_to_keep=1)
            past, logits = out.past_key_values, out.logits[0, -1].float()  # [V]
            if matcher is not None:
                allowed = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8)  # 200 or 0
                logits = logits[: len(allowed)].masked_fill(allowed[: len(logits)] == 0, float("-inf"))
            if self.temperature:
                probabilities = torch.softmax(logits / self.temperature, dim=-1)
                token = int(torch.multinomial(probabilities, 1, generator=generator))
            else:
                token = int(logits.argmax())
            if token in ends:
                return tokens
            tokens.append(token)
            if matcher is not None:
                if not matcher.consume_token(token):
                    raise ServiceError(f"{self.name}: constrained decoding failed: {matcher.get_error()}")
                if matcher.is_stopped():
                    return tokens
            fed = torch.tensor([[token]])
        raise ServiceError(f"{self.name}: the answer was not finished within {self.max_tokens} tokens")

    def _matcher(self, schema: Mapping[str, Any]) -> Any:
        llguidance = _llguidance()
        if llguidance is None:
            return None
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(dict(schema)), overrides={"whitespace_flexible": False}
        )
        matcher = llguidance.LLMatcher(self._guide, grammar)
        if matcher.is_error():
            raise ConfigError(f"chat: local cannot hold answers to this schema: {matcher.get_error()}")
        return matcher

    @cached_property
    def _guide(self) -> Any:
        import llguidance.hf

        return llguidance.hf.from_tokenizer(self._tokenizer, n_vocab=self._model.config.vocab_size)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return self._loaded(AutoTokenizer, {})

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        return self._loaded(AutoModelForCausalLM, {"dtype": torch.float32}).eval()

    def _loaded(self, kind: Any, options: dict[str, Any]) -> Any:
        """From the folder alone: nothing is fetched, and no code that a model brings is run."""
        if self._gguf:
            options = {**options, "gguf_file": self._gguf}
        try:
            return kind.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False, **options)
        except ImportError as error:
            raise ConfigError(f"chat: local needs a package: {one_line(error)}") from error
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{self.folder}: not a loadable model ({one_line(error)})") from error


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        return None
    return llguidance


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: models and their tokenizers do not always name the same."""
    ends = {tokenizer.eos_token_id}
    named = getattr(model.generation_config, "eos_token_id", None)
    ends |= set(named) if isinstance(named, list) else {named}
    return {end for end in ends if end is not None}
