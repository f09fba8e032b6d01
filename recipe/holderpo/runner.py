"""verl's task runner (the Ray actor that holds the trainer), with HölderPO's trainer in the place of verl's."""

import importlib
from threading import Thread

import ray
from omegaconf import DictConfig, OmegaConf
from verl.trainer.main_ppo import TaskRunnerV1
from verl.utils.logging_utils import configure_verl_logging

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
        # Importing the trainer takes seconds; so does waiting for the queue's processes. Both at once.
        importing = Thread(target=importlib.import_module, args=("recipe.holderpo.trainer",))
        importing.start()
        tq.init(config.transfer_queue)
        importing.join()
        from recipe.holderpo.trainer import TRAINERS

        exit_code = 1
        try:
            self.trainer = TRAINERS[config.trainer.v1.trainer_mode](config=config)
            self.trainer.init()
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
