"""One run: sample, reward, update, as verl does it in its synchronous trainer, in one process and one thread."""

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2ForCausalLM
from transformers.utils.logging import disable_progress_bar

from holderpo_core import REDUCTION, Order, holder_policy_loss, response_p
from recipe.holderpo.embedded.tiny_model import encode_prompt
from recipe.holderpo.study.model import FastQwen2, response_mask
from recipe.holderpo.study.settings import RULES, RunSettings
from recipe.holderpo.study.tasks import TASKS, StudyTask

RESPONSE_LENGTH = 28
GRAD_CLIP = 1.0  # verl's
VAL_SEED = 10**6  # validation draws from a generator of its own, the same for every arm
METRICS = (
    "log_ratio_std",
    "effective_sample_size",
    "sequence_clip_fraction",
    "token_clip_fraction",
    "ppo_kl",
    "bound",
    "second_moment",
    "log_ratio_max",
    "log_ratio_min",
    "p_mean",
)
"""Of `holder_policy_loss`; a step's value is the mean over its updates, which have as many sequences each (of the extremes,
the extreme)."""


class Batch:
    """A step's samples: `prompts` groups of `samples` responses, in order.

    Attributes:
        ids: (B, P + T) int64; mask: (B, T) bool; old_log_prob: (B, T) nats; advantages: (B,); rewards: (B,) 0 or 1.
    """

    def __init__(self, ids: torch.Tensor, mask: torch.Tensor, old_log_prob: torch.Tensor, rewards: torch.Tensor):
        self.ids, self.mask, self.old_log_prob, self.rewards = ids, mask, old_log_prob, rewards
        self.advantages = torch.empty(0)

    def set_advantages(self, samples: int) -> "Batch":
        """GRPO's: (reward - mean) / (std + 1e-6) of the group, the unbiased std, as in verl."""
        groups = self.rewards.view(-1, samples)
        centered = groups - groups.mean(1, keepdim=True)
        self.advantages = (centered / (groups.std(1, keepdim=True) + 1e-6)).flatten()
        return self


class Run:
    """A run in progress. The same settings give the same bits on the same machine and versions."""

    def __init__(self, settings: RunSettings, model_folder: Path):
        torch.set_num_threads(1)
        disable_progress_bar()
        self.settings = settings
        self.task: StudyTask = TASKS[settings.task]()
        weights = (model_folder / "model.safetensors").read_bytes()
        self.start_sha256 = hashlib.sha256(weights).hexdigest()[:16]
        self.tokenizer = AutoTokenizer.from_pretrained(model_folder)
        self.end = self.tokenizer.eos_token_id
        self.qwen = Qwen2ForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        self.model = FastQwen2(self.qwen)
        self.optimizer = self._new_optimizer()
        self.rule = RULES[settings.arm](settings.steps)
        self.generator = torch.Generator().manual_seed(settings.seed)

    def run(self) -> dict[str, Any]:
        """Train to the last step; the record, as JSON values."""
        began = time.monotonic()
        accuracy, steps = {"0": self.validate(0)}, []
        for step in range(1, self.settings.steps + 1):
            steps.append(self.step(step))
            if step % self.settings.val_freq == 0 or step == self.settings.steps:
                accuracy[str(step)] = self.validate(step)
        return {
            "key": self.settings.key,
            "settings": asdict(self.settings),
            "start_sha256": self.start_sha256,
            "accuracy": accuracy,
            "steps": {name: [row[name] for row in steps] for name in steps[0]},
            "seconds": round(time.monotonic() - began, 1),
        }

    def step(self, step: int) -> dict[str, float]:
        """Sample, update, and let the rule observe; the step's metrics."""
        order = self.rule.next_p(step)
        batch = self.sample(self.training_problems())
        if self.settings.reset_adam:
            self.optimizer = self._new_optimizer()
        updates = self.update(batch, order)
        metrics = {name: _reduced(name, [update[name] for update in updates]) for name in METRICS}
        norms = torch.tensor([update["grad_norm"] for update in updates], dtype=torch.float64)
        metrics["last_log_ratio_std"] = updates[-1]["log_ratio_std"]
        metrics["grad_norm"] = norms.mean().item()
        metrics["grad_norm_std"] = norms.std(correction=0).item()
        metrics["updates"] = float(len(updates))
        metrics["reward"] = batch.rewards.mean().item()
        self.rule.observe(step, {f"holder/{name}": value for name, value in metrics.items()})
        return {name: float(f"{value:.4g}") for name, value in metrics.items()}

    def sample(self, problems: list[tuple[str, str]]) -> Batch:
        """`samples` responses to each problem, with their rewards, advantages and log-probabilities."""
        count = self.settings.samples
        prompts = self._prompts([question for question, _ in problems]).repeat_interleave(count, 0)
        tokens = self.model.sample(prompts, RESPONSE_LENGTH, self.end, self.generator)
        rewards = self._rewards(tokens, [answer for _, answer in problems for _ in range(count)])
        ids = torch.cat((prompts, tokens), 1)
        with torch.no_grad():
            old_log_prob = self.model.log_prob(ids, prompts.shape[1])
        return Batch(ids, response_mask(tokens, self.end), old_log_prob, rewards).set_advantages(count)

    def update(self, batch: Batch, order: Order) -> list[dict[str, float]]:
        """A step's updates: `epochs` over the batch in order, `mini_batch_prompts` groups at a time; each one's metrics."""
        size = self.settings.mini_batch_prompts * self.settings.samples
        metrics: list[dict[str, float]] = []
        for _ in range(self.settings.epochs):
            for rows in torch.arange(len(batch.ids)).split(size):
                loss, measured = self.loss(batch, rows, order)
                if self.settings.max_kl is not None and measured["ppo_kl"] > self.settings.max_kl:
                    return metrics
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(self.qwen.parameters(), GRAD_CLIP)
                if norm.isfinite():  # else left out, as the recipe's guard does
                    self.optimizer.step()
                self.optimizer.zero_grad()
                metrics.append(measured | {"grad_norm": norm.item()})
        return metrics

    def loss(self, batch: Batch, rows: torch.Tensor, order: Order) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of some rows of a batch, and its metrics."""
        clip, prompt_length = self.settings.clip_ratio, batch.ids.shape[1] - batch.mask.shape[1]
        mask, old_log_prob, advantages = batch.mask[rows], batch.old_log_prob[rows], batch.advantages[rows]
        log_prob = self.model.log_prob(batch.ids[rows], prompt_length)
        return holder_policy_loss(
            log_prob,
            old_log_prob,
            advantages,
            mask,
            response_p(order, log_prob, old_log_prob, advantages, mask, clip, clip),
            clip_level=self.settings.loss_clip_level,
            clip_ratio_low=clip,
            clip_ratio_high=clip,
            batch_size=len(rows),
        )

    def validate(self, step: int) -> float:
        """Share of the held-out problems whose one sampled answer is right."""
        _, problems = self.task.problems
        generator = torch.Generator().manual_seed(VAL_SEED + step)
        prompts = self._prompts([question for question, _ in problems])
        tokens = self.model.sample(prompts, RESPONSE_LENGTH, self.end, generator)
        return round(self._rewards(tokens, [answer for _, answer in problems]).mean().item(), 4)

    def training_problems(self) -> list[tuple[str, str]]:
        problems, _ = self.task.problems
        picks = torch.randperm(len(problems), generator=self.generator)[: self.settings.prompts]
        return [problems[pick] for pick in picks.tolist()]

    def _prompts(self, questions: list[str]) -> torch.Tensor:
        return torch.tensor([encode_prompt(self.tokenizer, question) for question in questions])

    def _rewards(self, tokens: torch.Tensor, answers: list[str]) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        right = [self.task.answer_of(text) == answer for text, answer in zip(texts, answers, strict=True)]
        return torch.tensor(right, dtype=torch.float32)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.qwen.parameters(), lr=self.settings.lr, betas=(0.9, 0.999), weight_decay=0.0, fused=True
        )


def _reduced(name: str, values: list[float]) -> float:
    how = REDUCTION[name]
    return max(values) if how == "max" else min(values) if how == "min" else sum(values) / len(values)
