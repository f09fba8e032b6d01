"""HölderPO's trainers: verl's, with parts of ours wired into them.

The parts are `StepP` (p of each step), `RunRecord` (metrics.jsonl), `CollapseDetector` (limits of `guard`) and the committed
checkpoints of `fault_tolerance.checkpoint`. Their state is in the checkpoint's manifest, and is restored from it.
"""

import copy
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu

from recipe.holderpo import atomic
from recipe.holderpo.config.settings import guard_settings, rule_of_p
from recipe.holderpo.fault_tolerance.checkpoint import (
    Entry,
    commit,
    prune,
    read_manifest,
    remove,
    step_folder,
    step_of,
)
from recipe.holderpo.fault_tolerance.collapse import Collapsed, CollapseDetector, NotFinite, is_finite_update
from recipe.holderpo.fault_tolerance.liveness import check_alive, liveness_checks
from recipe.holderpo.fault_tolerance.progress import SAVE, Progress, bytes_below
from recipe.holderpo.fault_tolerance.signals import Stopped, stop_requested
from recipe.holderpo.report.publish import publish
from recipe.holderpo.report.record import RunRecord
from recipe.holderpo.tasks.registry import EXTRA_FIELDS, advantage_estimators
from recipe.holderpo.training.metrics import further_metrics, mean_reward
from recipe.holderpo.training.nonfinite import write_nonfinite_samples
from recipe.holderpo.training.rank_save import SavedPart
from recipe.holderpo.training.step_p import StepP, order_metrics
from recipe.holderpo.training.token_groups import keep_tokens
from recipe.holderpo.training.verl_internals import poll_replay_buffer_every, processes_of, time_phases
from recipe.holderpo.training.worker import (
    P_KEY,
    HolderActorRolloutRefWorker,
    HolderDetachActorWorker,
    finish_metrics,
    finish_update_measures,
)

logger = logging.getLogger(__name__)

# verl looks for finished samples every 2 s; on average half of that is lost in every step, on every cluster.
POLL_SECONDS = 0.02
SAVED_POLL_SECONDS = 0.5
# Time for processes to answer that they are alive: after an error, and after a step, when all of them should be idle.
AFTER_ERROR_SECONDS, AFTER_STEP_SECONDS = 60.0, 1.0
# After an error a save that goes on is waited for, as long as bytes come within so many seconds; hashing them takes some.
SAVING_AFTER_ERROR_SECONDS, POLL_AFTER_ERROR_SECONDS = 120.0, 0.5


class HolderTrainerMixin(PPOTrainer):
    """Over one of verl's trainers. With a baseline's loss the updates are verl's own."""

    worker_cls: type = HolderActorRolloutRefWorker

    def __init__(self, config: DictConfig, queue: "Future[Any]", progress: Progress):
        self._composed = OmegaConf.to_container(config, resolve=True)  # verl writes into its config
        super().__init__(config)
        self.progress = progress
        time_phases(progress.phase)
        self.queue = queue  # the start of the transfer queue, which the task runner has begun
        rule = rule_of_p(config)
        self.p = None if rule is None else StepP(rule)
        self.record = RunRecord(config.run_dir)
        self.collapse = CollapseDetector(guard_settings(config))
        self._trained: tuple[KVBatchMeta, dict[str, Any]]  # batch and metrics of the step in progress
        self._saves = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._saving: tuple[Path, Future[dict[str, float]]] | None = None  # the checkpoint that is being written
        self._rows_fetched = 0  # prompts since this process started; names them when deterministic

    @property
    def parts(self) -> dict[str, Any]:
        """What has state beside verl's own: name in the manifest -> part, with `state_dict` and `load_state_dict`."""
        parts = {"p": self.p, "record": self.record, "collapse": self.collapse}
        return {name: part for name, part in parts.items() if part is not None}

    # Before training

    def _build_replay_buffer(self) -> ReplayBuffer:
        return poll_replay_buffer_every(super()._build_replay_buffer(), POLL_SECONDS)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in (Role.Actor, Role.ActorRollout, Role.ActorRolloutRef):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(self.worker_cls)

    def _load_checkpoint(self) -> None:
        """The last part of `init`, and the first that may use the transfer queue."""
        self.queue.result()
        super()._load_checkpoint()
        self.record.resume_from(self.global_steps)
        if self.global_steps:
            state = read_manifest(Path(self.config.trainer.resume_from_path))["state"]
            for name, part in self.parts.items():
                if name in state:  # p has none where `resume_changes` has made a baseline's run one of ours
                    part.load_state_dict(state[name])
            if self.record.lacks_line and not self._validation_due():
                self.record.write_held_line()

    def _validation_due(self) -> bool:
        every = self.config.trainer.test_freq
        return bool(every > 0 and (self.global_steps % every == 0 or self.global_steps >= self.total_training_steps))

    # Training

    def fit(self, agent_loop_manager: Any) -> None:
        if self.record.resumed_at and not self.config.trainer.val_only:
            # A validation that the restored step lacks is run now; one that it has had is not repeated.
            self.config.trainer.val_before_train = self.record.lacks_line
        try:
            with self.progress.phase("fit"), liveness_checks(lambda: processes_of(self), self.progress.note):
                self._fit(agent_loop_manager)
        except Exception:
            try:  # what is being saved may well be without a fault
                self._wait_while_written()
                self._finish_save(wait=False)
            except Exception as error:
                logger.error("the checkpoint that was being written is lost: %s", error)
            raise
        self._finish_save()
        try:
            publish(Path(self.config.run_dir), self.logger.logger, self.global_steps)
        except Exception as error:  # whatever a tracker raises: all that was trained is saved
            logger.error("the report was not given to the trackers: %s: %s", type(error).__name__, error)

    def _fit(self, agent_loop_manager: Any) -> None:
        try:
            super().fit(agent_loop_manager)
        except (Stopped, Collapsed, NotFinite):
            raise
        except Exception:
            check_alive(processes_of(self), AFTER_ERROR_SECONDS)  # verl may only have found that no sample came back
            raise

    def on_init_end(self) -> None:
        with liveness_checks(lambda: processes_of(self)):
            super().on_init_end()

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        self.progress.step = self.global_steps
        if self.p is not None:
            self.p.at(self.global_steps)  # asked in every step, also while only a critic is trained
        batch = super().step(metrics, timing_raw)
        check_alive(processes_of(self), AFTER_STEP_SECONDS)  # verl continues with fewer samples than it asked for
        if self.p is not None:
            reward = {"reward/mean": mean_reward(batch)} if self.p.rule.reads_reward else {}
            self.p.observe(self.global_steps, metrics | reward)
        self._trained = batch, metrics
        self._finish_save(wait=False)
        if stop_requested(self.config.run_dir) and self.global_steps < self.total_training_steps:
            self._save_checkpoint()
            raise Stopped(f"stopped at step {self.global_steps}")
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if self.config.algorithm.adv_estimator not in advantage_estimators():
            return super()._compute_advantage(batch, metrics=metrics)
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        token = EXTRA_FIELDS.set(data.pop("extra_fields").tolist())
        try:
            return super()._compute_advantage(batch, metrics=metrics)
        finally:
            EXTRA_FIELDS.reset(token)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if self.p is not None:
            batch.extra_info[P_KEY] = self.p.at(self.global_steps)
        batch = super()._update_actor(batch, metrics)
        finish_metrics(metrics)
        finish_update_measures(metrics)
        if self.p is not None:
            metrics |= order_metrics(self.p.at(self.global_steps), metrics["holder/p_mean"])
        if not is_finite_update(metrics):
            file = Path(self.config.run_dir) / "nonfinite" / f"step_{self.global_steps}.jsonl"
            write_nonfinite_samples(batch, self.tokenizer, file)
            logger.error(
                "the update of step %d was not finite and was skipped; its samples: %s", self.global_steps, file
            )
        metrics |= keep_tokens(self, batch, None if self.p is None else self.p.at(self.global_steps))
        return batch

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        metrics.update(further_metrics(batch, metrics))
        self.record.step(self.global_steps, metrics)
        if self.config.guard.on_nonfinite == "stop" and metrics["guard/nonfinite_updates"]:
            raise NotFinite(
                f"the update of step {self.global_steps} was not finite; samples: {self.config.run_dir}/nonfinite"
            )
        self.collapse.step(self.global_steps, metrics)

    def _validate(self) -> dict[str, float]:
        with self.progress.phase("testing"):
            metrics = super()._validate()
        # verl logs the validation before the first step without `_compute_metrics`. After a resume the step has its line
        # already, unless the run was stopped between its checkpoint and the end of its validation.
        if self.global_steps == self.record.resumed_at and self.record.lacks_line:
            self.record.write_held_line(metrics)
        return metrics

    # Checkpoints

    def _save_checkpoint(self) -> None:
        """Save this step. Training waits until the ranks have copied what they write; in the last step, until it is written.

        A save that fails is undone and logged; the last good checkpoint stays, and the run continues, unless nothing would
        follow that could make up for it."""
        self._finish_save()  # that of an earlier step
        manifest = self._manifest()
        folder, began = step_folder(Path(self.config.trainer.default_local_dir), self.global_steps), time.monotonic()
        with self.progress.phase(SAVE, lambda: bytes_below(folder)):
            try:
                remove(folder)  # what an interrupted save left must not mix with the new files
                (folder / "actor").mkdir(parents=True)
                super()._save_checkpoint()
            except (OSError, RuntimeError) as error:  # torch.save raises the latter for a full disk
                self._written()  # until then a rank may write into the folder
                remove(folder)
                return self._save_failed(self.global_steps, error)
        self._saving = folder, self._saves.submit(self._commit_when_written, folder, manifest, began)
        if self._is_last() or not self._in_background():
            self._finish_save()

    def _in_background(self) -> bool:
        return bool(self.config.actor_rollout_ref.actor.checkpoint.async_save)

    def _is_last(self) -> bool:
        return bool(self.global_steps >= self.total_training_steps or stop_requested(self.config.run_dir))

    def _commit_when_written(self, folder: Path, manifest: dict[str, Any], began: float) -> dict[str, float]:
        """In a thread: make the folder a checkpoint when all ranks have written their parts; returns metrics of the save."""
        parts = self._written()
        try:
            commit(folder, manifest, self._files(folder, parts))
        except (OSError, RuntimeError):
            remove(folder)
            raise
        seconds = time.monotonic() - began
        try:
            prune(folder.parent, manifest["step"], self.config.keep_checkpoints)
            # verl's own note, which it does not write of a save in the background.
            atomic.write_text(folder.parent / "latest_checkpointed_iteration.txt", str(manifest["step"]))
        except OSError as error:
            logger.error(
                "the checkpoint is complete, but its older ones could not be deleted, or verl's note not written: %s",
                error,
            )
        copied = all(part.copied for part in parts)
        return {
            "checkpoint/step": float(manifest["step"]),
            "checkpoint/seconds": seconds,
            "checkpoint/in_background": float(copied),
        }

    def _written(self) -> list[SavedPart]:
        """What each rank wrote in the last save, once all have."""
        while None in (parts := self.actor_rollout_wg.saved_part()):
            time.sleep(SAVED_POLL_SECONDS)
        return list(parts)

    def _files(self, folder: Path, parts: list[SavedPart]) -> dict[str, Entry]:
        """Sizes and hashes of what the ranks wrote.

        Raises OSError where one could not write its part, or it cannot be seen from here."""
        errors = [part.error for part in parts if part.error]
        if errors:
            raise OSError(errors[0])
        ranks = self.config.trainer.nnodes * self.config.trainer.n_gpus_per_node
        shards = len(list(folder.glob("actor/model_world_size_*.pt")))
        if shards < ranks:
            raise OSError(f"{shards} of {ranks} shards can be seen from here: do all nodes share {folder.parent}?")
        return {file: entry for part in parts for file, entry in part.files.items()}

    def _finish_save(self, wait: bool = True) -> None:
        """Note how the last save ended, in the metrics of the step in progress; not `wait`: if it has."""
        if self._saving is None:
            return
        folder, saving = self._saving
        if wait:
            with self.progress.phase(SAVE, lambda: bytes_below(folder)):
                wait_for([saving])
        if saving.done():
            self._saving = None
            try:
                self._trained[1].update(saving.result())
            except (OSError, RuntimeError) as error:
                return self._save_failed(step_of(folder), error)
            if self._in_background():  # verl has called it before, of what was not complete yet
                self.checkpoint_callback.on_save(
                    trainer=self, global_step=step_of(folder), checkpoint_dir=str(folder), async_save=False
                )

    def _wait_while_written(self) -> None:
        """Until the last save has ended, or nothing more has been written for a while: a rank may wait for what was lost."""
        if self._saving is None:
            return
        (folder, saving), size, since = self._saving, -1, time.monotonic()
        while not saving.done() and time.monotonic() - since < SAVING_AFTER_ERROR_SECONDS:
            wait_for([saving], timeout=POLL_AFTER_ERROR_SECONDS)
            if (now := bytes_below(folder)) != size:
                size, since = now, time.monotonic()

    def _save_failed(self, step: int, error: Exception) -> None:
        if step == self.global_steps and self._is_last():
            raise error
        self._trained[1]["checkpoint/failed"] = 1.0
        logger.error("the checkpoint of step %d failed, the run continues: %s", step, error)

    def _manifest(self) -> dict[str, Any]:
        """What a checkpoint says of itself, with the state of the parts."""
        batch, metrics = self._trained
        metrics, timing = dict(metrics), {**self.timing_raw, "step": sum(self.timing_raw.values())}
        epoch = (self.global_steps - 1) // self.steps_per_epoch
        super()._compute_metrics(batch, metrics, timing, self.global_steps, epoch)
        metrics |= further_metrics(batch, metrics)
        self.record.hold(metrics)
        self.collapse.count(self.global_steps, metrics)  # the step is counted before its checkpoint has the count
        return {
            "step": self.global_steps,
            "saved_at": time.time(),
            "versions": {name: version(name) for name in ("verl", "torch", "ray", "transformers")},
            "config": self._composed,
            "state": {name: copy.deepcopy(part.state_dict()) for name, part in self.parts.items()},  # written later
        }

    # What `deterministic=true` needs beside the agent loop's seeds: names and an order that depend neither on chance nor on
    # which sample was finished first.

    def _fetch_one_gen_batch(self) -> Any:
        batch = super()._fetch_one_gen_batch()
        if self.config.deterministic:
            start, self._rows_fetched = self._rows_fetched, self._rows_fetched + len(batch)
            tu.assign_non_tensor_stack(batch, "uid", [f"{row:012d}" for row in range(start, self._rows_fetched)])
        return batch

    def _balance_batch(self, batch: KVBatchMeta, *args: Any, **kwargs: Any) -> KVBatchMeta:
        if self.config.deterministic:
            batch.reorder(sorted(range(len(batch.keys)), key=batch.keys.__getitem__))
        return super()._balance_batch(batch, *args, **kwargs)


class HolderTrainerSync(HolderTrainerMixin, PPOTrainerSync):
    """Generation and training take turns on the same devices."""


class HolderTrainerColocateAsync(HolderTrainerMixin, PPOTrainerColocateAsync):
    """As sync, with generation that continues over a weight update."""


class HolderTrainerSeparateAsync(HolderTrainerMixin, PPOTrainerSeparateAsync):
    """Generation and training on devices of their own."""

    worker_cls = HolderDetachActorWorker


TRAINERS: dict[str, type[HolderTrainerMixin]] = {
    "sync": HolderTrainerSync,
    "colocate_async": HolderTrainerColocateAsync,
    "separate_async": HolderTrainerSeparateAsync,
}
