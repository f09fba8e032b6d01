"""verl's task runner (the Ray actor that holds the trainer), with HölderPO's trainer in the place of verl's."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from omegaconf import DictConfig, OmegaConf
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
from verl.utils.logging_utils import configure_verl_logging

from recipe.holderpo.config.settings import stall_settings
from recipe.holderpo.fault_tolerance.progress import MICRO_BATCHES, Progress, micro_batches, progress_reports
from recipe.holderpo.fault_tolerance.stalls import end_processes
from recipe.holderpo.startup.server import INTERPRETER, ForkServer
from recipe.holderpo.training.verl_internals import TaskRunner

RAY_STARTS = 3
SLOW_START = "The current node timed out during startup"
"""What `ray.init` says when a node of its own took more than 30 s, as it may on a busy machine; no setting changes that."""


class _HolderTaskRunner(TaskRunner):
    def run(self, config: DictConfig) -> None:
        """As `TaskRunnerV1.run`, which looks its trainer up by `trainer_mode`; that name must stay verl's own, since verl
        compares it in several places."""
        configure_verl_logging()
        config.transfer_queue.enable = True
        OmegaConf.resolve(config)
        self.config = config
        run_dir = Path(config.run_dir)
        progress = Progress(stall_settings(config), micro_batches(run_dir))
        with progress_reports(progress, run_dir):
            self._run(config, progress)

    def _run(self, config: DictConfig, progress: Progress) -> None:
        import transfer_queue as tq

        exit_code = 1
        try:
            # Seconds each, and needed only later: the queue's processes, and the import of the rollout server's class.
            with ThreadPoolExecutor() as pool:
                queue = pool.submit(tq.init, config.transfer_queue)
                from verl.workers.rollout.replica import get_rollout_replica_class

                from recipe.holderpo.training.trainer import TRAINERS

                server = pool.submit(get_rollout_replica_class, config.actor_rollout_ref.rollout.name)
                self.trainer = TRAINERS[config.trainer.v1.trainer_mode](config=config, queue=queue, progress=progress)
                self.trainer.init()
                server.result()
            self.init_agent_loop_manager()
            self.trainer.fit(self.agent_loop_manager)
            exit_code = 0
        finally:
            try:
                tracking = getattr(self.trainer, "logger", None)  # absent until fit() has begun
                if tracking is not None:
                    tracking.finish(exit_code=exit_code)
            finally:
                tq.close()


HolderTaskRunner = ray.remote(_HolderTaskRunner)


def start_ray(config: DictConfig, server: ForkServer | None = None) -> None:
    """Start Ray, or attach to a cluster, as verl's `run_ppo` would, which then finds it started.

    Done before `run_ppo` because `ray.init` replaces the handler of SIGTERM, and ours must be set again before training.

    Args:
        server: from which a node of this run's own forks its workers.
    """
    rollout, reward_model = config.actor_rollout_ref.rollout, config.reward.reward_model
    if rollout.full_determinism or (reward_model.enable and reward_model.rollout.full_determinism):
        os.environ |= {
            "VERL_FULL_DETERMINISM": "1",
            "VLLM_BATCH_INVARIANT": "1",
            "PYTHONHASHSEED": str(rollout.seed),
        }
    loggers = config.trainer.get("logger") or []
    if "rl_insight" in ([loggers] if isinstance(loggers, str) else loggers):
        os.environ["VERL_RL_INSIGHT_ENABLE"] = "1"
    settings = config.ray_kwargs.get("ray_init", {})
    default_env = get_ppo_ray_runtime_env(config)
    if config.transfer_queue.enable:
        default_env.setdefault("env_vars", {})["TRANSFER_QUEUE_ENABLE"] = "1"
    default_env.setdefault("env_vars", {})[MICRO_BATCHES] = str(micro_batches(Path(config.run_dir)))
    runtime_env = OmegaConf.merge(default_env, settings.get("runtime_env", {}))
    if config.fork_workers:
        runtime_env = OmegaConf.merge(runtime_env, {"py_executable": INTERPRETER})
    arguments = OmegaConf.to_container(OmegaConf.create({**settings, "runtime_env": runtime_env}))
    print(f"ray.init: {arguments}")
    handler = signal.getsignal(signal.SIGTERM)
    for left in range(RAY_STARTS - 1, -1, -1):
        os.environ |= server.for_a_node() if server else {}
        try:
            ray.init(**arguments)
            return
        except Exception as error:  # Ray has no class for it
            if SLOW_START not in str(error) or left == 0:
                raise
            print(f"Ray's node did not start in time; starts left: {left}", file=sys.stderr, flush=True)
            end_processes(server.pids() if server else ())
            signal.signal(signal.SIGTERM, handler)  # the node that failed has left its own
