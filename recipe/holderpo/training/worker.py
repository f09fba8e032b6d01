"""Hands the step's p from the batch to the loss, and the loss's metrics back in a form that reduces exactly.

verl calls a policy loss once per micro-batch and averages its metrics plainly over micro-batches and ranks. Here they
leave the worker as sums and counts (means over sequences or tokens), as maxima and as minima, so that the step's figures
do not depend on how the batch was split; `finish_metrics` divides on the driver.
"""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import Dispatch, register
from verl.trainer.ppo.core_algos import get_policy_loss_fn, register_policy_loss
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.engine_workers import ActorRolloutRefWorker

from holderpo_core import REDUCTION
from recipe.holderpo.fault_tolerance.progress import MICRO_BATCHES, MicroBatches
from recipe.holderpo.policy_loss import METRIC_PREFIX, measured
from recipe.holderpo.training.rank_save import RankSave, SavedPart
from recipe.holderpo.training.reshard import load_on_other_ranks, ranks_of
from recipe.holderpo.training.verl_internals import actor_config, modules_of, wrap_load, wrap_save, wrap_update

P_KEY = "holder_p"
GRAD_NORM_SQUARE = "grad_norm_square"
FIRST, LAST = "first/", "last/"  # of a step's updates
COPIED = {FIRST: ("log_ratio_max", "log_ratio_min"), LAST: ("log_ratio_std", "sequences")}
# The order whose Hölder mean is nearest to a loss of verl's, where it is not the arithmetic mean of token ratios (p = 1).
BASELINE_P = {"gspo": 0.0, "geo_mean": 0.0}

LossFn = Callable[..., tuple[torch.Tensor, dict[str, Any]]]


def loss_with_step_p(
    model_output: Any, data: TensorDict, dp_group: Any = None, *, loss_fn: LossFn
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Call verl's `loss_fn` (a partial with the actor's config) with this step's p.

    Raises:
        KeyError: the batch carries no p. There is no default: a schedule whose step is lost must not train on.
    """
    if P_KEY not in data:
        raise KeyError(f"{P_KEY!r} did not arrive with the batch: the Hölder schedule's step is unknown in this worker")
    actor_config(loss_fn).policy_loss.p = tu.get_non_tensor_data(data, P_KEY, default=None)
    return loss_with_exact_metrics(model_output, data, dp_group, loss_fn=loss_fn)


def loss_with_exact_metrics(
    model_output: Any, data: TensorDict, dp_group: Any = None, *, loss_fn: LossFn
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Call verl's `loss_fn`, whose policy loss is the Hölder loss or a `measured` one."""
    loss, metrics = loss_fn(model_output=model_output, data=data, dp_group=dp_group)
    return loss, split_metrics(metrics)


def split_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """Turn one micro-batch's `holder/*` values into metrics that verl reduces exactly (sum, max or min).

    A mean becomes its sum; the counts that it is to be divided by are sent with it.
    """
    values = {name: _value(metrics[METRIC_PREFIX + name]) for name in REDUCTION}
    count = {"sequence_mean": values["sequences"], "token_mean": values["tokens"]}
    out = dict(metrics)
    for name, how in REDUCTION.items():
        if how in count:
            out[METRIC_PREFIX + name] = Metric(AggregationType.SUM, values[name] * count[how])
        else:
            out[METRIC_PREFIX + name] = Metric(AggregationType(how), values[name])
    return out


def _value(metric: Metric) -> float:
    (value,) = metric.values
    return float(value)


def finish_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Divide the step's sums by their counts. `metrics` is changed in place: keys "actor/holder/x" become "holder/x"."""
    totals = {name: metrics.pop(f"actor/{METRIC_PREFIX}{name}") for name in REDUCTION}
    count = {"sequence_mean": totals.pop("sequences"), "token_mean": totals.pop("tokens")}
    for name, total in totals.items():
        how = REDUCTION[name]
        metrics[METRIC_PREFIX + name] = float(total / max(count[how], 1.0) if how in count else total)
    return metrics


def finish_update_measures(metrics: dict[str, float]) -> None:
    """Finish what `with_update_measures` has added to a step's metrics, in place: `actor/grad_norm_std`,
    `holder/first_log_ratio_max` and `holder/last_log_ratio_std`."""
    variance = metrics.pop(f"actor/{GRAD_NORM_SQUARE}") - metrics["actor/grad_norm"] ** 2
    metrics["actor/grad_norm_std"] = math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.nan
    first, last = ({name: metrics.pop(f"actor/{prefix}{name}") for name in names} for prefix, names in COPIED.items())
    metrics["holder/first_log_ratio_max"] = max(first["log_ratio_max"], -first["log_ratio_min"])
    metrics["holder/last_log_ratio_std"] = last["log_ratio_std"] / max(last["sequences"], 1.0)


def with_update_measures(train_batch: Callable[..., Any]) -> Callable[..., Any]:
    """verl's update on a mini-batch, with further metrics of it, which verl averages over a step's updates as it does the
    others: the square of its gradient norm; of the step's first update the extremes of its log-ratios, and of the last,
    which verl tells apart as the one that moves the learning rate's schedule, their spread."""
    is_first = True

    def train_and_measure(data: TensorDict) -> Any:
        nonlocal is_first
        prefixes = [FIRST] * is_first
        is_first = bool(tu.get(data, "update_lr_scheduler", default=False))  # then the next is another step's
        output = train_batch(data)
        metrics = {} if output is None else tu.get(output, "metrics")  # one rank of several that hold the same has them
        if "grad_norm" in metrics:
            metrics[GRAD_NORM_SQUARE] = metrics["grad_norm"] ** 2
            for prefix in prefixes + [LAST] * is_first:
                metrics |= {prefix + name: metrics[METRIC_PREFIX + name] for name in COPIED[prefix]}
        return output

    return train_and_measure


class HolderWorkerMixin:
    """Over a verl worker class: p comes with each batch, and a save that fails is the driver's to judge."""

    actor: Any  # verl's TrainingWorker; None in a worker without an actor
    config: Any
    loss_fn: LossFn
    _rank_save: RankSave

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        super().init_model()  # type: ignore[misc]
        if self.actor is None:
            return
        ranks_here = int(os.environ.get("RAY_LOCAL_WORLD_SIZE", "1"))
        self._rank_save = RankSave(bool(self.config.actor.checkpoint.async_save), ranks_here)
        wrap_save(self, lambda save: partial(self._save, save))
        wrap_load(self, lambda load: partial(self._load, load))
        mode = self.config.actor.policy_loss.loss_mode
        if mode != "holder":
            register_policy_loss(mode)(measured(get_policy_loss_fn(mode), BASELINE_P.get(mode, 1.0)))
        self.loss_fn = partial(loss_with_step_p if mode == "holder" else loss_with_exact_metrics, loss_fn=self.loss_fn)
        self.actor.set_loss_fn(self.loss_fn)
        wrap_update(self, with_update_measures)
        file = os.environ.get(MICRO_BATCHES)
        if file is not None and torch.distributed.get_rank() == 0:
            for module in modules_of(self):
                module.register_forward_pre_hook(MicroBatches(Path(file)))

    def _save(self, save: Callable[..., None], local_path: str, *args: Any, **kwargs: Any) -> None:
        """verl's writing of this rank's files, but an error (a full disk) is kept for `saved_part`.

        verl's ranks meet when they have written; one that raised before would leave the others waiting."""
        own_files = f"*_rank_{torch.distributed.get_rank()}.pt"
        try:
            self._rank_save.save(lambda: save(local_path, *args, **kwargs), lambda: [*Path(local_path).glob(own_files)])
        except Exception:  # torch and tokenizers raise what they like for a full disk
            torch.distributed.barrier()

    def _load(self, load: Callable[..., None], local_path: str, *args: Any, **kwargs: Any) -> None:
        """verl's reading of this rank's files, or ours of all ranks' where they were saved on another number of ranks."""
        if ranks_of(Path(local_path)) == torch.distributed.get_world_size():
            return load(local_path, *args, **kwargs)
        load_on_other_ranks(self.actor.engine.checkpoint_manager, Path(local_path))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def saved_part(self) -> SavedPart | None:
        """What this rank wrote in the last save, or what went wrong; None: it is still being written."""
        return self._rank_save.part()


class HolderActorRolloutRefWorker(HolderWorkerMixin, ActorRolloutRefWorker):
    """For trainer modes sync and colocate_async."""


class HolderDetachActorWorker(HolderWorkerMixin, DetachActorWorker):
    """For trainer mode separate_async, which adds saving and restoring of weights to the worker."""
