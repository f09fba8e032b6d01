"""The tiny model's folder, read back as transformers and verl read it."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, save_model

QUESTION = [{"role": "user", "content": "7+5-3"}]
PROMPT = "<|im_start|>u\n7+5-3<|im_end|>\n<|im_start|>a\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer()
    save_model(build_model(TinyModelConfig(), tokenizer, seed=3), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=300)
@given(text=st.text().filter(lambda text: "<|" not in text))
def test_round_trip_of_any_text(tokenizer: Any, text: str) -> None:
    """A token per byte and the NFC form back, which Qwen2's tokenizer normalises to. Special tokens are one token each."""
    normal = unicodedata.normalize("NFC", text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(normal.encode())
    assert tokenizer.decode(ids) == normal


def test_special_tokens(tokenizer: Any) -> None:
    assert type(tokenizer).__name__ == "Qwen2Tokenizer"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.bos_token is None
    assert len(tokenizer) == 259
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        assert len(tokenizer.encode(token)) == 1
        assert tokenizer.decode(tokenizer.encode("a" + token + "b"), skip_special_tokens=True) == "ab"


def test_newline_is_one_token(tokenizer: Any) -> None:
    (newline,) = tokenizer.encode("\n")
    assert tokenizer.encode("1\n\n\n2").count(newline) == 3


def test_prompt(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    assert text == PROMPT
    assert tokenizer.apply_chat_template(QUESTION, tokenize=False) == "<|im_start|>u\n7+5-3<|im_end|>\n"
    assert len(tokenizer.encode(text)) == 13


def test_prompt_in_verls_agent_loop(tokenizer: Any) -> None:
    """verl builds the prompt, and appends later turns, through its own tokenization of Qwen models."""
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    builder = create_continuous_token_builder(
        tokenizer, hf_model_type="qwen2", chat_template_kwargs={}, mm_processor_kwargs={}, processor=None
    )
    prompt = builder.build_initial_tokens(QUESTION)
    assert tokenizer.decode(prompt) == PROMPT
    answer = tokenizer.encode(r"\boxed{9}<|im_end|>")
    turns = [*QUESTION, {"role": "assistant", "content": r"\boxed{9}"}]
    merged = builder.merge_context_tokens(turns, [*turns, {"role": "user", "content": "ok"}], prompt + answer)
    assert tokenizer.decode(merged.token_ids) == (
        PROMPT + "\\boxed{9}<|im_end|>\n<|im_start|>u\nok<|im_end|>\n<|im_start|>a\n"
    )


def test_saved_model(folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.architectures == ["Qwen2ForCausalLM"]
    assert 500_000 <= model.num_parameters() <= 2_000_000
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (folder / "model.safetensors").is_file()
    generation = GenerationConfig.from_pretrained(folder)
    assert (generation.eos_token_id, generation.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    fresh = build_model(TinyModelConfig(), tokenizer, seed=3).eval()
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids).logits, fresh(ids).logits, rtol=0, atol=0)


def test_seed_decides_the_weights(tokenizer: Any) -> None:
    first, again, other = (build_model(TinyModelConfig(), tokenizer, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
