"""A model of the target's family that fits a CPU, and data where the real files are not there."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recipe.holderpo.config.cross_checks import data_files
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.data.build import DataSet, records, write_parquet
from recipe.holderpo.plan import MODELS, Architecture, read_architecture

# head_dim is 32: vLLM's attention on CPUs has no smaller one.
HIDDEN, INTERMEDIATE, LAYERS, HEADS, HEAD_DIM = 128, 256, 2, 4, 32
STAND_IN = "stand_in"  # the data source's name
PROBLEMS = 64  # of the stand-in for training data
# Arithmetic with answers that need the grader's different ways: numbers, fractions, terms.
QUESTIONS = (
    ("What is {a} + {b}?", "{sum}"),
    ("Write {a} divided by {b} as a fraction.", "\\frac{{{a}}}{{{b}}}"),
    ("Simplify \\sqrt{{{square}}}.", "{a}\\sqrt{{{b}}}"),
    ("Expand (x+{a})(x+{b}).", "x^2+{sum}x+{product}"),
)


@dataclass(frozen=True)
class Target:
    """The model that the cluster would train, as far as it is known here."""

    config: dict[str, Any]
    """Of its config.json, or what the preset's architecture says."""
    architecture: Architecture | None
    """For `plan`; None where the family is none that it knows."""
    folder: Path | None
    """Where its config.json and tokenizer are; None: not on this machine."""

    @property
    def what_is_kept(self) -> str:
        return "family, tokenizer" if self.folder else "family, each byte is a token"

    @property
    def why_replaced(self) -> str:
        return "small, random weights" + ("" if self.folder else "; its tokenizer is not on this machine")


def find_target(key: str, model: str) -> Target:
    """A model in a folder, in the hub's cache, or as the architecture of a preset, by the end of its name.

    Args:
        key: of the config, whose value `model` is.

    Raises:
        ConfigError: it is none of these.
    """
    from transformers.utils import cached_file

    path = os.path.expanduser(model)
    try:
        file = cached_file(path, "config.json", local_files_only=True)
        content = json.loads(Path(str(file)).read_text())
    except ValueError as error:
        raise ConfigError(f"the config.json of {key}={path} cannot be read: {error}") from None
    except OSError:
        named = os.path.basename(path).lower().replace("-", "_")
        preset = next((preset for preset in MODELS if named.endswith(preset)), None)
        if os.path.isdir(path) or preset is None:
            raise ConfigError(
                f"{key} is {path!r}; allowed for a rehearsal is a folder or a model in the hub's "
                f"cache with a config.json and a tokenizer, or the model of a preset that `plan` knows: {', '.join(MODELS)}"
            ) from None
        found = MODELS[preset]
        family = {"model_type": "qwen3" if found.qk_norm else "qwen2", "tie_word_embeddings": found.tied}
        heads = {"num_attention_heads": found.heads, "num_key_value_heads": found.kv_heads}
        return Target({**family, **heads, "max_position_embeddings": 32768}, found, None)
    folder = Path(str(file)).parent
    try:
        return Target(content, read_architecture(folder), folder)
    except ConfigError:
        return Target(content, None, folder)


def make_model(target: Target, trust_remote_code: bool, folder: Path) -> None:
    """Write a model of the target's family and its tokenizer (or else one with a token a byte), with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from recipe.holderpo.embedded.tiny_model import build_tokenizer

    values = {name: value for name, value in target.config.items() if name not in ("layer_types", "auto_map", "dtype")}
    heads = values.get("num_attention_heads", HEADS)
    kv_heads = values.get("num_key_value_heads") or heads
    values |= {
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "max_window_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": max(1, HEADS * kv_heads // heads),
        "head_dim": HEAD_DIM,
    }
    if target.folder is not None:
        tokenizer = AutoTokenizer.from_pretrained(target.folder, trust_remote_code=trust_remote_code)
    else:
        tokenizer = build_tokenizer()
        tokenizer.model_max_length = values["max_position_embeddings"]
        values |= {"vocab_size": len(tokenizer), "bos_token_id": None}
        values |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values)).to(
        torch.bfloat16
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def missing_data(config: DictConfig) -> list[str]:
    """Keys of data files for which a stand-in is needed: of mathematics, where some of the key's files are not there."""
    if (
        config.embedded_data is not None
        or config.reward.custom_reward_function.path != "pkg://recipe.holderpo.rewards.math"
    ):
        return []
    return [
        key
        for key in ("data.train_files", "data.val_files")
        if not all(file and os.path.exists(os.path.expanduser(str(file))) for file in data_files(config, key))
    ]


def make_data(folder: Path) -> tuple[Path, Path]:
    """Write problems as `python -m recipe.holderpo.data` does; return the (training, evaluation) files."""
    problems = []
    for number in range(PROBLEMS + PROBLEMS // 4):
        question, answer = QUESTIONS[number % len(QUESTIONS)]
        a, b = 2 + number, 3 + 2 * (number % 7)
        values = {"a": a, "b": b, "sum": a + b, "product": a * b, "square": a * a * b}
        problems.append((question.format(**values), answer.format(**values)))
    files = folder / "train.parquet", folder / f"eval_{STAND_IN}.parquet"
    for file, part in zip(files, (problems[:PROBLEMS], problems[PROBLEMS:]), strict=True):
        write_parquet(records(DataSet(STAND_IN, {}, part), file.stem), file)
    return files
