"""Whether p and the clip have an effect in a run, from the records of its steps."""

from collections.abc import Sequence

STEPS = 20
"""How many steps in a row have to agree."""
SMALLEST_EFFECT = 0.1
"""|p| x spread of log-ratios: the effective sample size of the weights is then exp(-0.01), within 1 % of that of p = 0."""
LARGEST_CLIP_FRACTION = 0.3

Record = dict[str, float]


def largest_order(record: Record) -> float | None:
    """|p| of a step, the larger one where it differs by sign; None for a loss without p."""
    orders = [abs(record[key]) for key in ("holder/p", "holder/p_positive", "holder/p_negative") if key in record]
    return max(orders, default=None)


def reach(record: Record) -> float | None:
    """|p| x spread of log-ratios in a step's last update, the furthest from the policy that sampled (older records have the
    mean over its updates alone); None for a loss without p."""
    order, spread = largest_order(record), record.get("holder/last_log_ratio_std", record.get("holder/log_ratio_std"))
    if order is None or spread is None:
        return None
    return order * spread if spread > 0 else 0.0


def without_effect(records: Sequence[Record], clip_level: str) -> dict[str, str]:
    """What has been without effect, or too strong, in each of the last `STEPS` steps: a name and a line for each.

    Args:
        records: training steps of the Hölder loss in order; fewer than `STEPS` say nothing.
        clip_level: `holder.clip_level`.
    """
    last = records[-STEPS:]
    reaches = [value for record in last if (value := reach(record)) is not None]
    if len(reaches) < STEPS:
        return {}
    found = {}
    if max(reaches) < SMALLEST_EFFECT and any(largest_order(record) for record in last):  # p = 0 throughout is a choice
        found["p"] = (
            f"note: p is without effect: |p| x spread of log-ratios was at most {max(reaches):.2g} in {STEPS} steps, and it "
            f"acts from about {SMALLEST_EFFECT}. More updates per batch (a smaller "
            "actor_rollout_ref.actor.ppo_mini_batch_size), a higher actor_rollout_ref.actor.optim.lr or "
            "algo=holder_dispersion give it one."
        )
    fractions = [record["holder/clip_fraction"] for record in last]
    if clip_level != "none" and max(fractions) == 0:
        low, high = min(r["holder/rho_min"] for r in last), max(r["holder/rho_max"] for r in last)
        found["no clip"] = (
            f"note: the clip is without effect: it has not bound in {STEPS} steps, with ratios from {low:.3g} to {high:.3g}. "
            "actor_rollout_ref.actor.clip_ratio_low and clip_ratio_high within them give it one."
        )
    if min(fractions) > LARGEST_CLIP_FRACTION:
        found["clip"] = (
            f"note: the clip binds in {min(fractions):.0%} or more of what it is applied to, {STEPS} steps in a row: that "
            "part of the batch has no gradient. A wider actor_rollout_ref.actor.clip_ratio_low and clip_ratio_high, a lower "
            "actor_rollout_ref.actor.optim.lr or fewer updates per batch give it one."
        )
    return found
