"""The command that resumes a run, as the user typed it."""

import shlex
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig

COMMAND_VARIABLE = "HOLDERPO_COMMAND"
"""Environment variable with the command line that the user typed, set by scripts/ and the launcher."""


def how_to_resume(config: DictConfig, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The line that says how to resume.

    Args:
        arguments: `sys.argv`, which counts where neither a script nor the launcher started this process.
    """
    if config.trainer.nnodes > 1:
        return f"to resume from the last checkpoint: the same command on every node, with run={config.run}"
    typed = environment.get(COMMAND_VARIABLE)
    words = shlex.split(typed) if typed else ["python", "-m", "recipe.holderpo.main", *arguments[1:]]
    kept = [word for word in words if not word.startswith("run=")]
    return f"to resume from the last checkpoint: {shlex.join([*kept, f'run={config.run}'])}"
