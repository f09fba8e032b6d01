"""What the `verl.plugins` entry point loads, in every process that imports verl (Ray workers and vLLM's too).

It must stay cheap (verl is imported by a dozen processes per run), so it imports nothing of verl: each registration waits,
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


def _register_advantages(core_algos: ModuleType) -> None:
    from recipe.holderpo.tasks.registry import advantage_estimators

    for name, function in advantage_estimators().items():
        core_algos.register_adv_est(name)(function)


def _register_agent_loop(_: ModuleType) -> None:
    import recipe.holderpo.training.agent_loop  # noqa: F401  (registers itself by decorator)


def install() -> None:
    """Register HölderPO's pieces with verl, each at the moment when verl imports its registry."""
    import wrapt

    from recipe.holderpo.fault_tolerance.shared_memory import mark_names
    from recipe.holderpo.fault_tolerance.stacks import write_stacks_on_signal

    write_stacks_on_signal()
    mark_names()

    wrapt.when_imported("verl.trainer.ppo.core_algos")(_register_policy_loss)
    wrapt.when_imported("verl.trainer.ppo.core_algos")(_register_advantages)
    wrapt.when_imported("verl.experimental.agent_loop")(_register_agent_loop)
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        from recipe.holderpo.training import cpu_platform

        cpu_platform.install()


def load_in_vllm() -> None:
    """vLLM creates its executor before it imports verl. Importing this module has installed the hooks already."""


try:
    install()
except BaseException:
    print("holderpo: the verl plugin failed to load; loss mode 'holder' is unknown in this process:", file=sys.stderr)
    traceback.print_exc()
    raise
