"""An evaluation's rehearsal: the very command, with a small model of the family, a few problems and short answers."""

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.compose import CONF
from recipe.holderpo.config.values import leaves
from recipe.holderpo.evaluation.model import checkpoint_of
from recipe.holderpo.fault_tolerance.run_files import check_can_write
from recipe.holderpo.rehearsal.parts import Parts, run_command
from recipe.holderpo.rehearsal.replacements import (
    MIN_RESPONSE,
    SHORTER,
    VALIDATED,
    Replacement,
    key_of,
    override,
    value_of,
)
from recipe.holderpo.rehearsal.report import part_rows, replaced_table
from recipe.holderpo.rehearsal.stand_ins import STAND_IN, Target, find_target, make_data, make_model
from recipe.holderpo.report.text_table import text_table

CPU = CONF / "evaluation/hardware/cpu.yaml"
KEPT = ("defaults", "engine.dtype")  # of that file: bfloat16 works on a CPU, too


@dataclass
class EvaluationRehearsal(Parts):
    config: DictConfig
    """What the cluster would have."""
    target: Target
    folder: Path
    replaced: list[Replacement] = field(default_factory=list)


def rehearse_evaluation(config: DictConfig, overrides: Sequence[str]) -> int:
    """Rehearse an evaluation; its exit status: 0, or 1 where a part went wrong.

    Args:
        config: the command's, complete and checked.
        overrides: the command's, with `rehearse`.

    Raises:
        ConfigError: the model cannot be read, or nothing can be written.
    """
    folder = Path(config.out_dir) / f"rehearsal-{time.strftime('%Y%m%d-%H%M%S')}"
    check_can_write("out_dir", folder)
    checkpoint = checkpoint_of(Path(config.model).expanduser())
    target = find_target("model", config.model if checkpoint is None else str(checkpoint / "huggingface"))
    this = EvaluationRehearsal(config, target, folder)
    folder.mkdir(parents=True)
    print(f"rehearsal: {folder}", flush=True)
    this.part("model and data", target.what_is_kept, "shrunk, random weights", lambda: _stand_ins(this))
    this.replaced += replacements(config)
    given = [one for one in overrides if key_of(one) != "rehearse"]
    given += [*(one.override for one in this.replaced), override("out_dir", str(folder)), "run=evaluation"]
    command = [sys.executable, "-m", "recipe.holderpo.evaluation", *given]
    environment = dict(os.environ) | {"VERL_PLATFORM": "cpu"}
    this.part(
        "evaluation",
        f"checks, vLLM, {config.template} template, grader, table",
        "a CPU, a few problems",
        lambda: run_command(command, [environment], folder / "evaluation.txt"),
    )
    print(f"\n{text_table(part_rows(this.parts), justify='left')}")
    for line in this.errors():
        print(line)
    print(replaced_table(this.replaced, "Replaced, and nothing else (the results' name and folder aside)"))
    print("\nWhat no rehearsal can tell: CUDA's kernels, NCCL, memory and speed.")
    return int(this.failed)


def replacements(config: DictConfig) -> list[Replacement]:
    return [one for one in _all(config) if one.was != one.value]


def _all(config: DictConfig) -> Iterator[Replacement]:
    for key, value in leaves(OmegaConf.to_container(OmegaConf.load(CPU))):
        if key not in KEPT:
            yield Replacement(key, value_of(config, key), value, "device")
    yield Replacement("engine.tensor_parallel_size", config.engine.tensor_parallel_size, 1, "device")
    tokens = min(config.max_tokens, max(MIN_RESPONSE, math.ceil(config.max_tokens / SHORTER)))
    yield Replacement("max_tokens", config.max_tokens, tokens, "time")
    if config.engine.max_model_len is not None:
        longest = config.engine.max_model_len - config.max_tokens + tokens
        yield Replacement("engine.max_model_len", config.engine.max_model_len, longest, "shorter answers")
    yield Replacement("limit", config.limit, min(config.limit or VALIDATED, VALIDATED), "time")


def _stand_ins(this: EvaluationRehearsal) -> None:
    make_model(this.target, this.config.engine.trust_remote_code, this.folder / "model")
    path = str(this.folder / "model")
    this.replaced.append(Replacement("model", this.config.model, path, this.target.why_replaced))
    this.replaced.append(Replacement("template", None, this.config.template, "that of the model"))
    folder, names = Path(this.config.data_dir), list(this.config.benchmarks)
    if not all((folder / f"eval_{name}.parquet").exists() for name in names):
        data = this.folder / "data"
        data.mkdir()
        make_data(data)
        this.replaced.append(Replacement("data_dir", str(folder), str(data), "not there"))
        this.replaced.append(Replacement("benchmarks", names, [STAND_IN], "not there"))
