"""The keys of group `alfworld`, which conf/task/alfworld.yaml in this folder documents: types, bounds and checks."""

import importlib.util
from collections.abc import Iterator
from typing import Annotated, Literal

from omegaconf import DictConfig
from pydantic import Field

from recipe.holderpo.config.values import Settings
from recipe.holderpo.tasks.alfworld.dataset import official_folder


class AlfworldSettings(Settings):
    size: Literal["tiny", "small", "full"]
    samples: Literal["step", "episode"]
    prompt: Literal["full", "compact"]
    max_steps: Annotated[int, Field(ge=1, le=1000)]
    history: Annotated[int, Field(ge=0, le=1000)]
    answer_tokens: Annotated[int, Field(ge=1, le=10**6)]
    success_reward: Annotated[float, Field(gt=0, le=1e6)]
    invalid_penalty: Annotated[float, Field(ge=0, le=1e6)]
    workers: Annotated[int, Field(ge=1, le=1024)]
    episodes_per_worker: Annotated[int, Field(ge=1, le=1024)]
    step_timeout: Annotated[float, Field(ge=0.1, le=3600)]
    transcripts: str | None


def check(config: DictConfig) -> Iterator[str]:
    """A line for each value that does not fit another one, or this machine."""
    if importlib.util.find_spec("alfworld") is None or importlib.util.find_spec("textworld") is None:
        yield "task needs the package alfworld; install it by `bash scripts/setup.sh alfworld`, or requirements/alfworld.txt"
    answer, response = config.alfworld.answer_tokens, config.data.max_response_length
    if answer > response:
        yield f"alfworld.answer_tokens is {answer}; allowed is at most data.max_response_length={response}"
    try:
        official = official_folder()
    except FileNotFoundError as error:
        yield str(error)
    else:
        if official is not None and config.embedded_model == "alfworld_warm":
            yield (
                f"ALFWORLD_DATA is {official}; allowed with model=alfworld_warm is none: the model was taught generated games"
            )
    by_step, estimator = config.alfworld.samples == "step", config.algorithm.adv_estimator
    if by_step != (estimator in ("step_grpo", "gigpo")):
        allowed = (
            "step_grpo or gigpo, which take the penalty of each step" if by_step else "any but step_grpo and gigpo"
        )
        yield (
            f"algorithm.adv_estimator is {estimator!r}; allowed with alfworld.samples={config.alfworld.samples} is {allowed}"
        )
