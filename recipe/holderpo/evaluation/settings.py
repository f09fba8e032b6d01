"""The keys of conf/evaluation/eval.yaml, which documents them: types, bounds and checks."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.config.secrets import no_secrets
from recipe.holderpo.config.values import Settings, wrong_settings
from recipe.holderpo.data.templates import TEMPLATES
from recipe.holderpo.rewards.grading.settings import GradingSettings


class EngineSettings(Settings):
    """Those arguments of vLLM's engine that the presets have; vLLM knows the others."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    dtype: str
    tensor_parallel_size: Annotated[int, Field(ge=1, le=1024)]
    max_model_len: Annotated[int, Field(ge=1, le=10**8)] | None
    trust_remote_code: bool


class EvaluationSettings(Settings):
    model: str
    trust_checkpoint: bool
    benchmarks: Annotated[list[str], Field(min_length=1)]
    data_dir: str
    template: str
    n: Annotated[int, Field(ge=1, le=10**6)]
    temperature: Annotated[float, Field(ge=0, le=10)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_tokens: Annotated[int, Field(ge=1, le=10**6)]
    k: list[Annotated[int, Field(ge=1)]]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    limit: Annotated[int, Field(ge=1, le=10**9)] | None
    run: str
    out_dir: str
    grading: dict[str, Any]
    engine: dict[str, Any]
    env: dict[str, Any]
    chunk: Annotated[int, Field(ge=1, le=10**6)]
    rehearse: bool


def check(config: DictConfig) -> None:
    """Check the values of an evaluation's config.

    Raises:
        ConfigError: with a line for each wrong value.
    """
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    lines = wrong_settings("", {str(key): value for key, value in values.items()}, EvaluationSettings)
    for group, model in (("grading", GradingSettings), ("engine", EngineSettings)):
        if isinstance(values[group], dict):
            lines += wrong_settings(group, {str(key): value for key, value in values[group].items()}, model)
    lines = lines or [*_misfits(config)]
    if lines:
        raise ConfigError(*lines)


def _misfits(config: DictConfig) -> Iterator[str]:
    out = Path(config.out_dir).absolute()
    if out not in Path(os.path.normpath(out / config.run)).parents:
        yield f"run is {config.run!r}; allowed is the name of a folder inside out_dir ({out})"
    if config.temperature == 0 and config.n != 1:
        yield f"n is {config.n}; allowed with temperature=0 is 1: greedy answers are all the same"
    if config.template not in TEMPLATES:
        yield f"template is {config.template!r}; allowed are {', '.join(TEMPLATES)}"
    yield from no_secrets(config)
    if str(config.env.get("TORCH_COMPILE_DISABLE")) == "1" and config.engine.get("enforce_eager") is False:
        yield "engine.enforce_eager is false; allowed with env.TORCH_COMPILE_DISABLE=1 is true"
    for k in config.k:
        if k > config.n:
            yield f"k contains {k}; allowed are whole numbers from 1 to n={config.n}"
