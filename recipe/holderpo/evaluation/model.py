"""What `model=` may name: a Hugging Face folder, a hub id, or a verl checkpoint, which is merged on the fly."""

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from omegaconf import OmegaConf

from recipe.holderpo import atomic
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.checkpoint import PREFIX, newest_complete
from recipe.holderpo.fault_tolerance.safe_load import check_holds_no_code

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
    checkpoint = _checkpoint(path)
    if checkpoint is None:
        raise ConfigError(f"model is {model!r}; allowed is a folder with a config.json or a verl checkpoint")
    if not trust_checkpoint:
        check_holds_no_code(checkpoint, own=True)  # verl's merger would run it; a transfer queue is not merged
    return str(_merge(checkpoint))


def _checkpoint(path: Path) -> Path | None:
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
            template = OmegaConf.select(OmegaConf.load(config), "template")
            return str(template) if template is not None else "model"  # a task without templates uses the tokenizer's
    return None
