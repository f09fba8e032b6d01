"""Keeps what the page shows of tokens: some groups of a step, with each token's log-ratio after the step's updates."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transfer_queue as tq
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.workers.utils.padding import response_from_nested

from holderpo_core import Order, response_p
from recipe.holderpo import atomic
from recipe.holderpo.report.events import TOKENS
from recipe.holderpo.training.metrics import group_of
from recipe.holderpo.training.verl_internals import data_parallel_size, log_probs_of

if TYPE_CHECKING:
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

FIELDS = ("prompts", "responses", "response_mask", "old_log_probs", "log_probs", "advantages", "rm_scores")
logger = logging.getLogger(__name__)
LOG_RATIO_DIGITS, LOG_PROB_DECIMALS = 6, 4
LONGEST_CHARACTER = 4
"""Tokens that one character may be spread over, in tokenizers of bytes."""


def keep_tokens(trainer: "PPOTrainer", batch: KVBatchMeta, order: Order | None) -> dict[str, float]:
    """Write groups of a batch that has just been trained on to tokens/STEP.jsonl of the run's folder, in the steps that keep
    some (`report` in the config). Returns the metric `report/tokens_seconds` then.

    Args:
        order: what the step's p was, as `response_p` takes it; None for a loss without one.
    """
    config, step = trainer.config, trainer.global_steps
    if not config.report.token_groups or step % config.report.tokens_every:
        return {}
    if (
        trainer.local_trigger_step < trainer.parameter_sync_step - 1
    ):  # trainer_mode=separate_async updates several times a step
        return {}
    began, actor = time.monotonic(), config.actor_rollout_ref.actor
    kept = keys_to_keep(batch, config.report.token_groups, config.actor_rollout_ref.rollout.n)
    others = [key for key in batch.keys if key not in set(kept)]
    log_probs_of(trainer, batch.select_keys(kept + others[: -len(kept) % data_parallel_size(trainer)]))
    lines = token_lines(kept, batch.partition_id, trainer.tokenizer, order, actor.clip_ratio_low, actor.clip_ratio_high)
    file = Path(config.run_dir) / TOKENS / f"{step}.jsonl"
    try:
        file.parent.mkdir(exist_ok=True)
        atomic.write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    except OSError as error:
        logger.error("the tokens of step %d are not kept: %s", step, error)
    return {"report/tokens_seconds": time.monotonic() - began}


def token_lines(
    keys: Sequence[str], partition: str | None, tokenizer: Any, order: Order | None, low: float, high: float
) -> Iterator[dict[str, Any]]:
    """Of each sample `group` and `sample` (verl's keys), `prompt` and `tokens` (texts), `mask` (1 at the tokens that are
    trained on), `log_ratio` (nats, of the queue's `log_probs` over `old_log_probs`), `log_prob` (nats, the latter),
    `advantage`, `reward` and `p`. Numbers of masked tokens are 0; those that are not finite are words, for JSON."""
    data = tq.kv_batch_get(keys=list(keys), partition_id=partition, select_fields=list(FIELDS))
    data["log_probs"] = response_from_nested(data["log_probs"], data["response_mask"])
    for row, key in enumerate(keys):
        prompt, response, mask, old, new, advantages, rewards = (data[name][row] for name in FIELDS)
        mask = mask.bool()
        p: float | Tensor | None = None
        if order is not None:
            new_, old_, advantages_, mask_ = (values[None] for values in (new, old, advantages, mask))
            p = response_p(order, new_, old_, advantages_, mask_, low, high)
        yield {
            "group": group_of(key),
            "sample": key,
            "prompt": tokenizer.decode(prompt),
            "tokens": texts_of(response.tolist(), tokenizer.decode),
            "mask": mask.int().tolist(),
            "log_ratio": [_digits(value) for value in torch.where(mask, new - old, 0.0).tolist()],
            "log_prob": [_word(round(value, LOG_PROB_DECIMALS)) for value in torch.where(mask, old, 0.0).tolist()],
            "advantage": _word(float(advantages[mask][0])) if mask.any() else 0.0,
            "reward": _word(float(rewards.sum())),
            "p": None if p is None else _word(float(p)),
        }


def keys_to_keep(batch: KVBatchMeta, groups: int, samples: int) -> list[str]:
    """Samples of the first groups whose rewards differ, and then of the others; of each group at most `samples`, and of an
    episode that is several the last one."""
    scores = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["rm_scores"])["rm_scores"]
    last: dict[str, dict[int, tuple[int, str, float]]] = {}  # group -> episode -> its last sample so far
    for row, (key, tag) in enumerate(zip(batch.keys, batch.tags, strict=True)):
        if not tag.get("is_padding", False):
            prompt, episode, number = key.rsplit("_", 2)
            found = last.setdefault(prompt, {}).get(int(episode))
            if found is None or int(number) > found[0]:
                last[prompt][int(episode)] = int(number), key, float(scores[row].sum())
    differ = {group: len({reward for *_, reward in episodes.values()}) > 1 for group, episodes in last.items()}
    chosen = sorted(sorted(last), key=lambda group: not differ[group])[:groups]
    return [last[group][episode][1] for group in chosen for episode in sorted(last[group])[:samples]]


def texts_of(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The text of each token. A character that several tokens make up is the last one's, and the others have none.

    Each is decoded behind the one before it, since some tokenizers drop a space at the beginning of a text."""
    texts, before, pending = list[str](), list[int](), list[int]()
    for one in ids:
        pending.append(one)
        text = decode([*before, *pending])[len(decode(before)) if before else 0 :]
        if text.endswith("\ufffd") and len(pending) < LONGEST_CHARACTER:
            texts.append("")
        else:
            texts.append(text)
            before, pending = pending, []
    if pending:
        texts[-1] = decode(pending)
    return texts


def _digits(value: float) -> float | str:
    return _word(float(f"{value:.{LOG_RATIO_DIGITS}g}"))


def _word(value: float) -> float | str:
    """JSON has no infinities."""
    return value if math.isfinite(value) else str(value)
