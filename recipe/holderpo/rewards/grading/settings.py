"""Limits of the grader, and whether what a benchmark says of its answers counts: types and bounds."""

from typing import Annotated

from pydantic import Field

from recipe.holderpo.config.values import Settings


class GradingSettings(Settings):
    """`reward.custom_reward_function.reward_kwargs` in training, `grading` in an evaluation.

    The greatest limits are far below what the kernel can take for one."""

    workers: Annotated[int, Field(ge=1, le=256)] = 2
    """Grading processes."""
    timeout: Annotated[float, Field(ge=0.001, le=86_400)] = 5.0
    """Seconds of a process's CPU time for one answer, or of its idleness."""
    memory_mb: Annotated[int, Field(ge=1024, le=1 << 20)] = 2048
    """Address space of a process, MiB."""
    conventions: bool = True
    """Whether a data source's own conventions count (conventions.py)."""
