"""HölderPO in pure PyTorch: the Hölder mean of token ratios, the policy loss, schedules of p, weight diagnostics."""

from holderpo_core.diagnostics import effective_sample_size, herfindahl, normalized_entropy, weight_entropy
from holderpo_core.loss import CLIP_LEVELS, ClipLevel, NotFiniteError, holder_policy_loss
from holderpo_core.mean import holder_weights, log_holder_mean
from holderpo_core.metrics import REDUCTION, Reduction
from holderpo_core.order import Order, SignedP, TrajectoryP, response_p
from holderpo_core.rules import DispersionP, PRule, RewardP, ScheduledP, SignedSchedule, TargetEss, TrajectoryRule
from holderpo_core.schedule import SHAPES, Schedule, Shape

__all__ = [
    "CLIP_LEVELS",
    "REDUCTION",
    "SHAPES",
    "ClipLevel",
    "DispersionP",
    "NotFiniteError",
    "Order",
    "PRule",
    "Reduction",
    "RewardP",
    "Schedule",
    "ScheduledP",
    "Shape",
    "SignedP",
    "SignedSchedule",
    "TargetEss",
    "TrajectoryP",
    "TrajectoryRule",
    "effective_sample_size",
    "herfindahl",
    "holder_policy_loss",
    "holder_weights",
    "log_holder_mean",
    "normalized_entropy",
    "response_p",
    "weight_entropy",
]
