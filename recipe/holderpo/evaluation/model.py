"""What `model=` may name: a Hugging Face folder, a hub id, or a verl checkpoint, which is merged on the fly."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recipe.holderpo import atomic
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.data.templates import prompt_ids
from recipe.holderpo.evaluation.generate import Problem
from recipe.holderpo.fault_tolerance.checkpoint import PREFIX, newest_complete
from recipe.holderpo.fault_tolerance.run_files import read_config
from recipe.holderpo.fault_tolerance.safe_load import check_holds_no_code

HUB_SECONDS = 5.0
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve_model(model: str, trust_checkpoint: bool = False) -> str:
    """A folder or hub id that vLLM loads.

    A verl checkpoint is a folder global_step_N (or its actor/); a run's folder stands for its newest checkpoint. It is
    merged once, into actor/merged beside its shards.

    Raises:
        ConfigError: there is no such model, or it is a checkpoint that holds code and is not trusted.
    """
    path = Path(model).expanduser()
    if not path.exists():
        if _HUB_ID.fullmatch(model) and not model.startswith("."):
            return model
        raise ConfigError(f"model is {model!r}; allowed is a hub id or an existing folder")
    if (path / "config.json").exists():
        return str(path)
    checkpoint = checkpoint_of(path)
    if checkpoint is None:
        raise ConfigError(f"model is {model!r}; allowed is a folder with a config.json or a verl checkpoint")
    if not trust_checkpoint:
        check_holds_no_code(checkpoint, own=True)  # verl's merger would run it; a transfer queue is not merged
    return str(_merge(checkpoint))


def check_model(model: str, engine: Mapping[str, Any], problems: Sequence[Problem], template: str | None) -> None:
    """Look at what vLLM would find wrong only when it has been imported and started, which takes minutes.

    Args:
        model: as `resolve_model` returns it.
        engine: arguments of vLLM's engine.
        problems: at least one.
        template: a value of `TEMPLATES`.

    Raises:
        ConfigError: the model has no config, tokenizer or weights that can be read, or a prompt is too long.
    """
    if Path(model).is_dir():
        _read_json(Path(model) / "config.json")
        if engine.get("load_format", "auto") == "auto":
            _check_weights(Path(model))
    else:
        _check_hub(model)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            engine.get("tokenizer") or model, trust_remote_code=engine["trust_remote_code"]
        )
        lengths = [len(prompt_ids(tokenizer, problem.text, template)) for problem in problems]
    except Exception as error:  # whatever a broken folder, or its template, makes transformers raise
        raise ConfigError(
            f"model is {model!r}; allowed is one with a tokenizer: {type(error).__name__} {str(error)[:300]}"
        ) from None
    longest, limit = max(lengths), engine.get("max_model_len", math.inf)
    if longest >= limit:
        problem = problems[lengths.index(longest)]
        raise ConfigError(
            f"engine.max_model_len is {limit}; allowed is more than the {longest} tokens of the longest prompt, that of "
            f"problem {problem.index} of {problem.benchmark}"
        )
    if min(lengths) == 0:
        raise ConfigError(f"model is {model!r}, whose tokenizer makes nothing of a prompt; allowed is one with its own")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"model: {file} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"model: {file} cannot be read: it has no keys")
    return document


def _check_weights(folder: Path) -> None:
    """Every file of weights that there should be is there, and as long as its head says."""
    from safetensors import SafetensorError, safe_open

    files = {*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.pt")}
    for index in folder.glob("*.index.json"):
        files |= {folder / name for name in _read_json(index).get("weight_map", {}).values()}
    if not files:
        raise ConfigError(f"model is {str(folder)!r}, which has no weights; allowed is a folder with *.safetensors")
    for file in sorted(files):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="numpy"):
                    pass
            elif not file.exists():
                raise FileNotFoundError(f"No such file: {file}")
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"model: the weights in {file} cannot be read: {error}") from None


def _check_hub(model: str) -> None:
    """Ask once, where transformers and vLLM would ask for a minute. ModelScope's models are vLLM's to find."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(model, "config.json"), str) or os.environ.get("VLLM_USE_MODELSCOPE"):
        return
    try:
        get_hf_file_metadata(hf_hub_url(model, "config.json"), timeout=HUB_SECONDS)
    except Exception as error:  # httpx's, the hub's
        why = f"{type(error).__name__} {str(error)[:200]}"
        raise ConfigError(
            f"model is {model!r}; allowed is a folder, or a hub id that is cached here or found on the hub: {why}"
        ) from None


def checkpoint_of(path: Path) -> Path | None:
    """The actor folder of the checkpoint that `path` is, or of the newest intact one below it."""
    for folder in (path, path.parent):
        if folder.name.startswith(PREFIX) and (folder / "actor/fsdp_config.json").exists():
            return folder / "actor"
    for root in (path, path / "checkpoints"):
        newest, skipped = newest_complete(root)
        for problem in skipped:
            print(f"checkpoint skipped: {problem}", flush=True)
        if newest is not None:
            return newest.folder / "actor"
    return None


def _merge(actor: Path) -> Path:
    merged = actor / "merged"
    if merged.exists():
        return merged
    print(f"merging {actor} ...", flush=True)
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp", "--local_dir", str(actor)]
    with suppress(FileExistsError), atomic.new_folder(merged) as new:  # another evaluation may be faster
        done = subprocess.run([*command, "--target_dir", str(new)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ConfigError(f"model: {actor} cannot be merged: {last}")
    return merged


def trained_template(model: str) -> str | None:
    """The prompt template in the config of the run that a checkpoint belongs to; None for a model of other origin."""
    path = Path(model).expanduser().resolve()
    for folder in (path, *path.parents):
        config = folder / "config.yaml"
        if config.exists() and (folder / "checkpoints").is_dir():
            template = OmegaConf.select(read_config(config), "template")
            return str(template) if template is not None else "model"  # a task without templates uses the tokenizer's
    return None
