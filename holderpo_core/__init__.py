"""HölderPO in pure PyTorch: the Hölder mean of token ratios, the policy loss, schedules of p, weight diagnostics."""

from holderpo_core.diagnostics import effective_sample_size, herfindahl, normalized_entropy, weight_entropy
from holderpo_core.loss import CLIP_LEVELS, ClipLevel, NotFiniteError, holder_policy_loss
from holderpo_core.mean import holder_weights, log_holder_mean
from holderpo_core.metrics import REDUCTION, Reduction
from holderpo_core.rules import PRule, ScheduledP
from holderpo_core.schedule import SHAPES, Schedule, Shape

__all__ = [
    "CLIP_LEVELS",
    "REDUCTION",
    "SHAPES",
    "ClipLevel",
    "NotFiniteError",
    "PRule",
    "Reduction",
    "Schedule",
    "ScheduledP",
    "Shape",
    "effective_sample_size",
    "herfindahl",
    "holder_policy_loss",
    "holder_weights",
    "log_holder_mean",
    "normalized_entropy",
    "weight_entropy",
]
