"""What the `verl.plugins` entry point loads, in every process that imports verl (Ray workers and vLLM's too).

It must stay cheap (verl is imported by a dozen processes a run), so it imports nothing of verl: each registration waits,
as a post-import hook, for the verl module that it registers with. verl skips a plugin that fails with a message at DEBUG
level only, so a failure is printed here before it is passed on.
"""

import os
import sys
import traceback
from types import ModuleType


def _register_policy_loss(core_algos: ModuleType) -> None:
    from recipe.holderpo.policy_loss import compute_policy_loss_holder

    core_algos.register_policy_loss("holder")(compute_policy_loss_holder)


def _register_advantage(core_algos: ModuleType) -> None:
    from recipe.holderpo.alfworld.advantage import step_grpo

    core_algos.register_adv_est("step_grpo")(step_grpo)


def _register_agent_loop(_: ModuleType) -> None:
    import recipe.holderpo.agent_loop  # noqa: F401  (registers itself by decorator)


def _allow_random_states(_: ModuleType) -> None:
    """What checkpoints hold beside tensors, for torch.load with weights_only: the state of NumPy's generator."""
    import numpy as np
    import torch

    rebuild = np.random.get_state()[1].__reduce__()[0]  # type: ignore[index]  # a private function of NumPy
    torch.serialization.add_safe_globals([rebuild, np.ndarray, np.dtype, np.dtypes.UInt32DType])


def install() -> None:
    """Register HölderPO's pieces with verl, each at the moment when verl imports its registry."""
    import wrapt

    wrapt.when_imported("verl.trainer.ppo.core_algos")(_register_policy_loss)
    wrapt.when_imported("verl.trainer.ppo.core_algos")(_register_advantage)
    wrapt.when_imported("verl.utils.checkpoint.checkpoint_manager")(_allow_random_states)
    wrapt.when_imported("verl.experimental.agent_loop")(_register_agent_loop)
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        from recipe.holderpo import cpu_platform

        cpu_platform.install()


try:
    install()
except BaseException:
    print("holderpo: the verl plugin failed to load; loss mode 'holder' is unknown in this process:", file=sys.stderr)
    traceback.print_exc()
    raise
