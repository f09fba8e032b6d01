"""A small Qwen2-architecture model with a byte-level tokenizer, built from nothing.

The architecture is Qwen2 so that transformers, verl and vLLM all know it. A folder whose ``model_type`` is ``qwen2``
gets ``Qwen2Tokenizer`` from ``AutoTokenizer`` whatever tokenizer class was saved in it, so the tokenizer is one: a
byte-level BPE with the 256 byte symbols, no merges and three special tokens. Every byte is one token, a newline too,
which verl's agent loop requires of Qwen models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD_TOKEN, START_TOKEN, EOS_TOKEN = SPECIAL_TOKENS

# ChatML, with the role cut to its first letter: every byte of a prompt is a token to generate from.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'][0] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>a\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TinyModelConfig:
    """Shape of the model. The defaults give 0.68 M parameters."""

    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 3
    num_heads: int = 4
    max_length: int = 256
    initializer_range: float = 0.02  # standard deviation of the initial weights


def build_tokenizer(words: Sequence[str] = ()) -> Qwen2Tokenizer:
    """Return the byte-level tokenizer: ids 0-255 are the symbols of the 256 bytes, sorted, then ``SPECIAL_TOKENS``, then
    ``words``, which are a token each wherever they occur.

    Like every Qwen2 tokenizer it normalises text to NFC before encoding, so decoding gives back the NFC form.
    """
    vocab = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    vocab |= {token: len(vocab) + offset for offset, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        unk_token=None,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        extra_special_tokens=[START_TOKEN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=TinyModelConfig.max_length,
    )
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    return tokenizer


def encode_prompt(tokenizer: Qwen2Tokenizer, question: str) -> list[int]:
    """Token ids of the prompt as verl builds it from the data's message."""
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def build_model(config: TinyModelConfig, tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2ForCausalLM:
    """Return a randomly initialised float32 model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_heads,
                max_position_embeddings=config.max_length,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                initializer_range=config.initializer_range,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    return model


def save_model(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Write a Hugging Face folder: safetensors weights, config, generation config and tokenizer."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
