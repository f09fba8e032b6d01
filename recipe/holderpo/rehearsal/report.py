"""What a rehearsal says at its end: part by part, key by key, and what it cannot tell."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.plan import Gpu, Workload, checkpoint_gb, estimate, save_seconds
from recipe.holderpo.rehearsal.parts import Part
from recipe.holderpo.rehearsal.replacements import Replacement
from recipe.holderpo.report.record import METRICS_FILE, read_metrics
from recipe.holderpo.report.text_table import text_table

if TYPE_CHECKING:
    from recipe.holderpo.rehearsal.rehearse import Rehearsal

# What a training step consists of: name, what is as on the cluster ({key}: the config's value), what is not, and the name
# of its time in the run's record.
STEP = (
    (
        "  sampling",
        "vLLM, {rollout.dtype}, {rollout.n} samples, template, agent loop, rewards",
        "vLLM's CPU build without CUDA graphs and sleep",
        "timing_s/gen",
    ),
    (
        "  log-probabilities",
        "packed={model.use_remove_padding}, dynamic batches={rollout.log_prob_use_dynamic_bsz}",
        "attention: sdpa",
        "timing_s/old_log_prob",
    ),
    (
        "  reference",
        "the KL term, packed={model.use_remove_padding}",
        "attention: sdpa",
        "timing_s/ref_log_prob",
    ),
    ("  advantages", "{algorithm.adv_estimator}", "", "timing_s/adv"),
    (
        "  update",
        "{actor.policy_loss.loss_mode}, bfloat16, checkpointing={model.enable_gradient_checkpointing}, dynamic "
        "batches={actor.use_dynamic_bsz}, offload={actor.fsdp_config.param_offload}, FSDP2, AdamW, the guard",
        "attention: sdpa; gloo for NCCL; not compiled",
        "timing_s/update_actor",
    ),
    ("  weights to vLLM", "verl's path, by buckets", "shared memory for CUDA IPC", "timing_s/update_weights"),
    ("  validation", "greedy or sampled as configured, graded", "a few problems", "timing_s/testing"),
    ("  checkpoint", "every rank's shards, hashed, committed", "", "checkpoint/seconds"),
)
_SHOWN = 60  # characters of a value


def print_report(rehearsal: "Rehearsal") -> None:
    """Print the parts, what was replaced, and the cluster's own figures."""
    file = rehearsal.folder / "training" / METRICS_FILE
    record = [row for row in read_metrics(file) if row["step"] > 0] if file.exists() else []
    rows = part_rows(rehearsal.parts, training=[*steps(rehearsal.config, record)])
    print(f"\n{text_table(rows, justify='left')}")
    for line in [*figures(record), *rehearsal.errors()]:
        print(line)
    print(
        replaced_table(rehearsal.replaced, "Replaced for training, and nothing else (the run's name and folder aside)")
    )
    print("\nWhat no rehearsal can tell: CUDA's kernels, flash-attn, CUDA graphs, NCCL, memory and speed.")
    if rehearsal.target.architecture is not None:
        print(planned(rehearsal.config, rehearsal.target.architecture))


def part_rows(parts: Sequence[Part], training: Sequence[list[str]] = ()) -> list[list[str]]:
    """The table's rows; `training`: those below the part of that name."""
    rows = [["part", "the same as on the cluster", "replaced", "seconds", ""]]
    for part in parts:
        rows.append([part.name, part.same, part.replaced, f"{part.seconds:.0f}", "ERROR" if part.error else "ok"])
        if part.name == "training":
            rows += training
    return rows


def replaced_table(replaced: Sequence[Replacement], title: str) -> str:
    rows = [["key", "on the cluster", "here", "why"]]
    rows += [[one.key, _short(one.was), _short(one.value), one.why] for one in replaced]
    return f"\n{title}:\n{text_table(rows, justify='left')}"


def steps(config: DictConfig, record: list[dict[str, float]]) -> Iterator[list[str]]:
    """A row for each part of the steps that were made; a part that the config does not have has none."""
    for name, same, replaced, time in STEP:
        seconds = [row[time] for row in record if time in row]
        if seconds:
            same = re.sub(r"\{([\w.]+)\}", lambda found: str(_value(config, found[1])), same)
            yield [name, same, replaced, f"{sum(seconds):.0f}", "ok"]


def _value(config: DictConfig, key: str) -> Any:
    whole = key if key.startswith("algorithm.") else f"actor_rollout_ref.{key}"
    return OmegaConf.select(config, whole)


def figures(record: list[dict[str, float]]) -> Iterator[str]:
    """What the steps did."""
    for row in record:
        line = (
            f"step {row['step']:.0f}: responses of {row['response_length/mean']:.0f} tokens, reward "
            f"{row['critic/rewards/mean']:.2f}, "
            + (
                f"gradient of norm {row['actor/grad_norm']:.2g}"
                if "actor/grad_norm" in row
                else "no update of the actor"
            )
        )
        if row.get("group/zero_variance_fraction") == 1:
            line += " (random weights: every group was all wrong or all right)"
        yield line


def planned(config: DictConfig, model: Any) -> str:
    """`python -m recipe.holderpo.plan`'s estimate for the cluster's own numbers, on GPUs of 80 GB."""
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    work = Workload(
        responses=config.data.train_batch_size * rollout.n,
        response_tokens=min(Workload.response_tokens, config.data.max_response_length),
        longest=config.data.max_response_length,
        tokens_per_gpu=actor.ppo_max_token_len_per_gpu,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
    )
    offload = ", without offload" if actor.fsdp_config.param_offload else ""
    found = estimate(model, gpus, work, Gpu(), rollout.tensor_model_parallel_size)
    return (
        f"By the estimate of `python -m recipe.holderpo.plan`, on {gpus} GPUs of 80 GB{offload}: "
        f"{found.training:.0f} GB while it trains, {found.sampling:.0f} GB while it samples, {found.step_s:.0f} s a step, "
        f"{checkpoint_gb(model):.0f} GB a checkpoint, "
        f"{save_seconds(model, gpus):.0f} s to save it."
    )


def _short(value: Any) -> str:
    text = str(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
    return text if len(text) <= _SHOWN else f"...{text[-_SHOWN:]}"
