"""Loss mode `holder`: verl's policy-loss signature on one side, `holderpo_core` on the other."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from verl.trainer.ppo.core_algos import PolicyLossFn
from verl.workers.config import ActorConfig, PolicyLossConfig

from holderpo_core import ClipLevel, NotFiniteError, holder_policy_loss, response_p

METRIC_PREFIX = "holder/"


@dataclass
class HolderLossConfig(PolicyLossConfig):
    """`actor_rollout_ref.actor.policy_loss` for loss mode `holder`.

    Args:
        p: order of the Hölder mean. In verl's own trainer a constant p is set here; HölderPO's sends p with each batch, and
            `recipe.holderpo.training.worker` sets it here for every micro-batch: a number, or another `holderpo_core.Order`.
        clip_level: where the ratio is clipped: "sequence", "token", "both" or "none" (see `holderpo_core.loss`).
        length_weighted: each response's advantage is multiplied by its number of tokens (LUSPO).
    """

    _mutable_fields = PolicyLossConfig._mutable_fields | {"p"}

    loss_mode: str = "holder"
    p: Any = None  # `Order | None`: verl converts what OmegaConf knows, and it knows no such union
    clip_level: ClipLevel = "sequence"
    length_weighted: bool = False


def compute_policy_loss_holder(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "seq-mean-token-mean",
    config: ActorConfig | None = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """HölderPO's policy loss (arXiv 2605.12058, Eq. 15), registered with verl as loss mode `holder`.

    Args:
        old_log_prob, log_prob, advantages, response_mask: (B, T); advantages must be constant over each response.
        loss_agg_mode: not used here: the objective is a mean over sequences. verl applies it to the entropy and KL terms.
        config: the actor's config; its `policy_loss` must be a `HolderLossConfig` with p set.
        rollout_is_weights: (B, T) importance weights of verl's rollout correction, constant over each response.

    Returns:
        The loss, normalised by the global batch so that it does not depend on the micro-batch split or the number of
        ranks, and the micro-batch's metrics: those of `holderpo_core.holder_policy_loss`, as `holder/*`. Where an advantage
        or a rollout weight is not finite: a loss that is nan, with a gradient that is, and the metrics of advantages 0.

    Raises:
        ValueError: no p, not a `HolderLossConfig`, several ranks without a global batch size, or what
            `holderpo_core.holder_policy_loss` refuses.
    """
    assert config is not None, "verl always passes the actor's config"
    loss_config = config.policy_loss
    if not isinstance(loss_config, HolderLossConfig):
        raise ValueError(
            "loss mode 'holder' needs actor_rollout_ref.actor.policy_loss._target_="
            f"recipe.holderpo.policy_loss.HolderLossConfig, got {type(loss_config).__module__}.{type(loss_config).__name__}"
        )
    if loss_config.p is None:
        raise ValueError(
            "actor_rollout_ref.actor.policy_loss.p is not set: give a constant p there, or train with "
            "`python -m recipe.holderpo.main`, which sends each step's p with the batch"
        )
    low, high = _clip_ratios(config)
    if loss_config.length_weighted:
        advantages = advantages * response_mask.sum(1, keepdim=True)

    def loss_of(advantages: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, dict[str, float]]:
        return holder_policy_loss(
            log_prob,
            old_log_prob,
            advantages,
            response_mask,
            p=response_p(loss_config.p, log_prob, old_log_prob, advantages, response_mask, low, high),
            clip_level=loss_config.clip_level,
            clip_ratio_low=low,
            clip_ratio_high=high,
            rollout_is_weights=weights,
            batch_size=_sequences_per_rank(config.global_batch_info),
        )

    try:
        loss, metrics = loss_of(advantages, rollout_is_weights)
    except NotFiniteError:
        # With a gradient of nan verl leaves the update out, on every rank, and the guard counts it. This error would end
        # the run.
        loss, metrics = loss_of(torch.zeros_like(advantages), None)
        loss = loss * math.nan
    return loss, {METRIC_PREFIX + name: value for name, value in metrics.items()}


def measured(loss: PolicyLossFn, p: float) -> PolicyLossFn:
    """A loss of verl's, whose metrics are joined by the Hölder loss's of the same micro-batch: as if it had been trained with
    the sequence clip at p, and each response with its mean advantage. The loss itself stays as it is."""

    def loss_and_measures(
        old_log_prob: torch.Tensor,
        log_prob: torch.Tensor,
        advantages: torch.Tensor,
        response_mask: torch.Tensor,
        loss_agg_mode: str,
        config: ActorConfig,
        rollout_is_weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        value, metrics = loss(
            old_log_prob=old_log_prob,
            log_prob=log_prob,
            advantages=advantages,
            response_mask=response_mask,
            loss_agg_mode=loss_agg_mode,
            config=config,
            rollout_is_weights=rollout_is_weights,
        )
        mask, (low, high) = response_mask.bool(), _clip_ratios(config)
        sums = advantages.masked_fill(~mask, 0).sum(1)
        with torch.no_grad():
            _, measures = holder_policy_loss(
                log_prob,
                old_log_prob,
                (sums / mask.sum(1).clamp(min=1)).nan_to_num(0, 0, 0),
                mask,
                p,
                clip_ratio_low=min(low, 1 - 1e-6),  # a loss that does not clip the ratio may have any
                clip_ratio_high=high,
            )
        return value, metrics | {METRIC_PREFIX + name: number for name, number in measures.items()}

    return loss_and_measures


def _clip_ratios(config: ActorConfig) -> tuple[float, float]:
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    return low, high


def _sequences_per_rank(global_batch_info: dict[str, Any]) -> float | None:
    """The divisor of the loss: global mini-batch size over data-parallel ranks, as in verl's `agg_loss`.

    FSDP averages gradients over ranks, so each rank's share divided by this is the mean over the global mini-batch.
    None (verl calls the loss outside a training engine) leaves the mean over the sequences at hand.
    """
    global_batch_size = global_batch_info.get("global_batch_size")
    dp_size = global_batch_info.get("dp_size", 1)
    if global_batch_size is None:
        if dp_size > 1:
            raise ValueError("global_batch_size is required when dp_size > 1")
        return None
    return global_batch_size / dp_size
