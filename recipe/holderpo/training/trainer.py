"""The way of p, on the driver: one value a step from the global step, sent with the batch; and what each step records.

p is a function of verl's `global_steps`, which a checkpoint restores, so a resumed run goes on with the schedule exactly.
"""

import json
import logging
import time
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import ray
import transfer_queue as tq
import transfer_queue.interface as tq_interface  # the handles of its actors are nowhere else
from omegaconf import DictConfig, OmegaConf
from ray.actor import ActorHandle
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu

from recipe.holderpo.config.checks import holder_schedule
from recipe.holderpo.fault_tolerance import preemption as stop
from recipe.holderpo.fault_tolerance.checkpoint import PREFIX, commit, read_manifest, remove, retain
from recipe.holderpo.fault_tolerance.collapse import (
    Collapsed,
    Limits,
    NotFinite,
    Watch,
    is_finite_update,
    nonfinite_samples,
)
from recipe.holderpo.fault_tolerance.liveness import check, lookout
from recipe.holderpo.report.record import RunRecord, from_plain, plain_metrics
from recipe.holderpo.training.worker import P_KEY, HolderActorRolloutRefWorker, HolderDetachActorWorker, finish_metrics

logger = logging.getLogger(__name__)

# verl looks for finished samples every 2 s; on average half of that is lost in every step, on every cluster.
POLL_SECONDS = 0.02
# For processes to say that they are there: after an error, and after a step, when all of them should be idle.
HEALTH_SECONDS, PROMPT_SECONDS = 60.0, 1.0


class HolderTrainerMixin(PPOTrainer):
    """Over one of verl's trainers. With a baseline's loss it changes nothing but polling and what is recorded."""

    worker_cls: type = HolderActorRolloutRefWorker

    def __init__(self, config: DictConfig, queue: "Future[Any]"):
        self._composed = OmegaConf.to_container(config, resolve=True)  # verl writes into its config
        super().__init__(config)
        self.queue = queue  # the start of the transfer queue, which the task runner has begun
        self.schedule = holder_schedule(config)
        self.record = RunRecord(config.run_dir)
        self._trained: tuple[KVBatchMeta, dict[str, Any]]  # batch and metrics of the step in progress
        self._unrecorded: dict[str, Any] = {}  # metrics of the restored step, whose line is yet to be written
        limits = OmegaConf.to_container(config.guard)
        assert isinstance(limits, dict)
        self._watch = Watch(Limits(**{str(key): limits[key] for key in limits if not str(key).startswith("on_")}))
        self._rows_fetched = 0  # prompts since this process started; names them when deterministic

    def _build_replay_buffer(self) -> ReplayBuffer:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = POLL_SECONDS
        return buffer

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
        if self.global_steps and self.record.last_step != self.global_steps:
            # The run ended between this checkpoint and the line of its step, which validation may belong to.
            self._unrecorded = from_plain(read_manifest(Path(self.config.trainer.resume_from_path))["metrics"])
            if not self._validation_due():
                self.record.step(self.global_steps, self._unrecorded)

    def _validation_due(self) -> bool:
        every = self.config.trainer.test_freq
        return bool(every > 0 and (self.global_steps % every == 0 or self.global_steps >= self.total_training_steps))

    def fit(self, agent_loop_manager: Any) -> None:
        if self.record.resumed_at and not self.config.trainer.val_only:
            # A validation that the step had not come to is made up for; one that it has had is not done twice.
            self.config.trainer.val_before_train = self.record.last_step != self.global_steps
        with lookout(self._processes):
            try:
                super().fit(agent_loop_manager)
            except (stop.Stopped, Collapsed, NotFinite):
                raise
            except Exception:
                check(self._processes(), HEALTH_SECONDS)  # verl may only have found that no sample came back
                raise

    def on_init_end(self) -> None:
        with lookout(self._processes):
            super().on_init_end()

    def _save_checkpoint(self) -> None:
        """verl's files; then the manifest that makes them a checkpoint; then what it replaces goes.

        A save that fails is undone and told; the last good checkpoint stays, and the run goes on, unless nothing would
        follow that could make up for it.
        """
        root = Path(self.config.trainer.default_local_dir)
        folder = root / f"{PREFIX}{self.global_steps}"
        manifest = self._manifest()
        try:
            remove(folder)  # what a save that was cut off left must not mix with the new files
            (folder / "actor").mkdir(parents=True)
            super()._save_checkpoint()
            errors = [error for error in self.actor_rollout_wg.save_error() if error]
            ranks = self.config.trainer.nnodes * self.config.trainer.n_gpus_per_node
            shards = len(list(folder.glob("actor/model_world_size_*.pt")))
            if not errors and shards < ranks:
                errors.append(f"{shards} of {ranks} shards can be seen from here: do all nodes share {root}?")
            if errors:
                raise OSError(errors[0])
            commit(folder, manifest)
        except (OSError, RuntimeError) as error:  # torch.save raises the latter for a full disk
            remove(folder)
            if self.global_steps >= self.total_training_steps or stop.requested(self.config.run_dir):
                raise
            self._trained[1]["checkpoint/failed"] = 1.0
            logger.error("the checkpoint of step %d failed, the run goes on: %s", self.global_steps, error)
            return
        try:
            retain(root, self.global_steps, self.config.keep_checkpoints)
        except OSError as error:
            logger.error("an older checkpoint could not be deleted: %s", error)

    def _manifest(self) -> dict[str, Any]:
        """What a checkpoint says of itself; "metrics" are those of its step that are known before validation."""
        batch, metrics = self._trained
        metrics, timing = dict(metrics), {**self.timing_raw, "step": sum(self.timing_raw.values())}
        epoch = (self.global_steps - 1) // self.steps_per_epoch
        super()._compute_metrics(batch, metrics, timing, self.global_steps, epoch)
        metrics.update(further_metrics(batch, metrics))
        return {
            "step": self.global_steps,
            "p": self.step_p() if self.schedule is not None else None,
            "saved_at": time.time(),
            "versions": {name: version(name) for name in ("verl", "torch", "ray", "transformers")},
            "config": self._composed,
            "metrics": plain_metrics(metrics),
        }

    def step_p(self) -> float:
        """p of the step in progress: the schedule's first value in step 1, its last in the last step."""
        assert self.schedule is not None
        return self.schedule.p_at(self.global_steps - 1, self.total_training_steps)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if self.schedule is not None:
            batch.extra_info[P_KEY] = self.step_p()
        batch = super()._update_actor(batch, metrics)
        if self.schedule is not None:
            finish_metrics(metrics)
            metrics["holder/p"] = self.step_p()
        if not is_finite_update(metrics):
            self._write_nonfinite(batch)
        return batch

    def _write_nonfinite(self, batch: KVBatchMeta) -> None:
        """The samples of an update that was not finite: those with a NaN or an infinity, or all where none has."""
        fields = ["old_log_probs", "advantages", "rm_scores"]
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["prompts", "responses", *fields]
        )
        padded = {name: data[name].to_padded_tensor(0) for name in fields}
        offending = nonfinite_samples(padded)
        file = Path(self.config.run_dir) / "nonfinite" / f"step_{self.global_steps}.jsonl"
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as lines:  # a step may have several batches
            for row in offending or range(len(batch.keys)):
                texts = {name: self.tokenizer.decode(data[name][row]) for name in ("prompts", "responses")}
                numbers = {name: [str(x) for x in values[row].tolist()] for name, values in padded.items()}
                lines.write(
                    json.dumps({"sample": batch.keys[row], "in": offending.get(row), **texts, **numbers}) + "\n"
                )
        logger.error("the update of step %d was not finite and was left out; its samples: %s", self.global_steps, file)

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        metrics.update(further_metrics(batch, metrics))
        self.record.step(self.global_steps, metrics)
        if self.config.guard.on_nonfinite == "stop" and metrics["guard/nonfinite_updates"]:
            raise NotFinite(
                f"the update of step {self.global_steps} was not finite; samples: {self.config.run_dir}/nonfinite"
            )
        self._watch.step(self.global_steps, metrics)

    def _processes(self) -> list[ActorHandle]:
        """What a sample or a weight passes through on its way. (The loss of a training worker ends the call to it.)"""
        managers = self._rollout_server_managers()
        loops = getattr(self, "agent_loop_manager", None)  # there from `fit` on
        queue = tq_interface._TQ_STORAGE or {}  # None where another run of the cluster has started it
        return [
            *(server for manager in managers for replica in manager.get_replicas() for server in replica.servers),
            *(manager.global_load_balancer for manager in managers),
            *self.reward_loop_manager.reward_loop_workers,
            *getattr(loops, "agent_loop_workers", ()),  # a manager of the user's own may have none
            tq_interface._TQ_CONTROLLER,
            *queue.get("SimpleStorage", {}).values(),
        ]

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        batch = super().step(metrics, timing_raw)
        check(self._processes(), PROMPT_SECONDS)  # verl goes on with fewer samples than it asked for
        self._trained = batch, metrics
        if stop.requested(self.config.run_dir) and self.global_steps < self.total_training_steps:
            self._save_checkpoint()
            raise stop.Stopped(f"stopped at step {self.global_steps}")
        return batch

    def _validate(self) -> dict[str, float]:
        metrics = super()._validate()
        # Before the first step the loop logs this one without `_compute_metrics`. After a resume the step has its line
        # already, unless the run was stopped between its checkpoint and the end of its validation.
        if self.global_steps == self.record.resumed_at and self.global_steps != self.record.last_step:
            self.record.step(self.global_steps, self._unrecorded | metrics)
        return metrics

    # What `deterministic=true` needs beside the agent loop's seeds: names and an order that do not depend on chance or on
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


def further_metrics(batch: KVBatchMeta, metrics: dict[str, Any]) -> dict[str, float]:
    """What a step's record has beside verl's metrics and the loss's."""
    return reward_metrics(batch) | {"guard/nonfinite_updates": float(not is_finite_update(metrics))}


def reward_metrics(batch: KVBatchMeta) -> dict[str, float]:
    """What the step's rewards say beside their mean.

    `group/zero_variance_fraction`: groups whose rewards are all equal, which have no gradient under a group-relative
    advantage. `reward/<name>`: the mean of every further number that the reward function returned for each response."""
    data = tq.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=["rm_scores", "extra_fields"]
    )
    extra_fields = data.pop("extra_fields").tolist()
    last = {key.rsplit("_", 1)[0]: key for key in sorted(batch.keys, key=lambda key: int(key.rsplit("_", 1)[1]))}
    groups: dict[str, list[float]] = {}
    extras: dict[str, list[float]] = {}
    for key, tag, scores, fields in zip(batch.keys, batch.tags, data["rm_scores"], extra_fields, strict=True):
        if tag.get("is_padding", False):
            continue
        groups.setdefault(key.split("_")[0], []).append(float(scores.sum()))
        if (
            key != last[key.rsplit("_", 1)[0]]
        ):  # an agent with several samples for an episode has its numbers in the last
            continue
        for name, value in fields.get("reward_extra_info", {}).items():
            if name not in ("score", "acc") and isinstance(value, int | float):
                extras.setdefault(name, []).append(float(value))
    zero_variance = np.mean([max(rewards) == min(rewards) for rewards in groups.values()])
    means = {f"reward/{name}": float(np.mean(values)) for name, values in extras.items()}
    return {"group/zero_variance_fraction": float(zero_variance)} | means


class HolderTrainerSync(HolderTrainerMixin, PPOTrainerSync):
    """Generation and training take turns on the same devices."""


class HolderTrainerColocateAsync(HolderTrainerMixin, PPOTrainerColocateAsync):
    """As sync, with generation that goes on over a weight update."""


class HolderTrainerSeparateAsync(HolderTrainerMixin, PPOTrainerSeparateAsync):
    """Generation and training on devices of their own."""

    worker_cls = HolderDetachActorWorker


TRAINERS: dict[str, type[HolderTrainerMixin]] = {
    "sync": HolderTrainerSync,
    "colocate_async": HolderTrainerColocateAsync,
    "separate_async": HolderTrainerSeparateAsync,
}
