"""verl's task runner (the Ray actor that holds the trainer), with HölderPO's trainer in the place of verl's."""

from concurrent.futures import ThreadPoolExecutor

import ray
from omegaconf import DictConfig, OmegaConf
from verl.trainer.main_ppo import TaskRunnerV1
from verl.utils.logging_utils import configure_verl_logging
from verl.workers.rollout.replica import get_rollout_replica_class

_TaskRunner: type = TaskRunnerV1.__ray_metadata__.modified_class  # what verl decorated with @ray.remote


class _HolderTaskRunner(_TaskRunner):
    def run(self, config: DictConfig) -> None:
        """As `TaskRunnerV1.run`, which looks its trainer up by `trainer_mode`; that name must stay verl's own, since verl
        compares it in several places."""
        configure_verl_logging()
        import transfer_queue as tq

        config.transfer_queue.enable = True
        OmegaConf.resolve(config)
        self.config = config
        exit_code = 1
        try:
            # Seconds each, and needed only later: the queue's processes, and the import of the rollout server's class.
            with ThreadPoolExecutor() as pool:
                queue = pool.submit(tq.init, config.transfer_queue)
                from recipe.holderpo.training.trainer import TRAINERS

                server = pool.submit(get_rollout_replica_class, config.actor_rollout_ref.rollout.name)
                self.trainer = TRAINERS[config.trainer.v1.trainer_mode](config=config, queue=queue)
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
