"""Run by test_engine.py: gradients and metrics of one mini-batch through verl's real FSDP2 engine.

python engine_gradients.py MODEL_DIR OUT PORT WORLD_SIZE-LAYOUT ..., with VERL_PLATFORM=cpu; LAYOUT is padded or packed. Ranks
are forked, so that verl is imported once. Writes OUT/WORLD_SIZE-LAYOUT.pt: for every clip level of CLIP_LEVELS and every way
of splitting (micro-batch sizes 1, 3 and 8 where they divide a rank's share; dynamic), the full gradient and the metrics.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.utils.metric import Metric, reduce_metrics
from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry
from verl.workers.utils.losses import ppo_loss

from holderpo_core import ClipLevel
from recipe.holderpo.policy_loss import HolderLossConfig
from recipe.holderpo.training.worker import P_KEY, finish_metrics, loss_with_step_p

SEQUENCES, PROMPT = 48, 3
CLIP_LEVELS: tuple[ClipLevel, ...] = ("sequence", "token")


def nested(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def mini_batch() -> TensorDict:
    """Sequences of 1 to 9 response tokens, the last one fully masked, with off-policy old log-probabilities."""
    rng = torch.Generator().manual_seed(5)
    prompts = [torch.randint(5, 250, (PROMPT,), generator=rng) for _ in range(SEQUENCES)]
    lengths = [1 + i % 9 for i in range(SEQUENCES)]
    responses = [torch.randint(5, 250, (n,), generator=rng) for n in lengths]
    masks = [torch.ones(n, dtype=torch.int64) for n in lengths]
    masks[-1].zero_()
    advantage = torch.randn(SEQUENCES, generator=rng)
    return TensorDict(
        {
            "prompts": nested(prompts),
            "responses": nested(responses),
            "input_ids": nested([torch.cat(pair) for pair in zip(prompts, responses, strict=True)]),
            "position_ids": nested([torch.arange(PROMPT + n) for n in lengths]),
            "response_mask": nested(masks),
            "loss_mask": nested(masks),
            "old_log_probs": nested([-5.5 + 0.3 * torch.randn(n, generator=rng) for n in lengths]),
            "advantages": nested([a * m for a, m in zip(advantage, masks, strict=True)]),
        },
        batch_size=SEQUENCES,
    )


def start_engine(model_dir: str, rank: int, world: int, port: str, packed: bool = False) -> Any:
    """verl's FSDP2 engine for a model, in a process group over gloo."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    dist.init_process_group("cpu:gloo", rank=rank, world_size=world)
    fp32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    engine_config = FSDPEngineConfig(
        strategy="fsdp2", model_dtype="fp32", dtype="float32", mixed_precision=fp32, use_torch_compile=False
    )
    engine_config.use_dynamic_bsz = False
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=HFModelConfig(
            path=model_dir,
            use_remove_padding=packed,
            override_config={"attn_implementation": "sdpa"},
            enable_gradient_checkpointing=False,
        ),
        engine_config=engine_config,
        optimizer_config=FSDPOptimizerConfig(lr=1e-3),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


def gradient_of(engine: Any, data: TensorDict, loss_fn: Any) -> tuple[torch.Tensor, dict[str, Metric]]:
    """The full gradient of a batch's loss, and this rank's metrics."""
    with engine.train_mode():
        engine.optimizer_zero_grad()
        output = engine.forward_backward_batch(data, loss_fn)
        gradient = torch.cat([p.grad.full_tensor().flatten() for p in engine.module.parameters()])
    return gradient, output["metrics"]


def holder_loss(clip_level: ClipLevel) -> Any:
    """What verl's worker calls with a micro-batch."""
    actor = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        loss_agg_mode="seq-mean-token-mean",
        policy_loss=HolderLossConfig(clip_level=clip_level),
    )
    return partial(loss_with_step_p, loss_fn=partial(ppo_loss, config=actor))


def share_of_rank(rank: int, world: int, p: float, **split: object) -> TensorDict:
    """Of the mini-batch, with what verl's worker adds."""
    data = tu.chunk_tensordict(mini_batch(), world)[rank]
    tu.assign_non_tensor(
        data,
        temperature=1.0,
        global_batch_size=SEQUENCES,
        use_fused_kernels=False,
        calculate_entropy=False,
        **{P_KEY: p},
        **split,
    )
    return data


def write_gradients(model_dir: str, out: Path, packed: bool, port: str, rank: int, world: int) -> None:
    engine = start_engine(model_dir, rank, world, port, packed)
    results = {}
    share = SEQUENCES // world
    splits: list[dict[str, object]] = [
        {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": size}
        for size in sorted({1, 3, 8, share})
        if share % size == 0
    ]
    splits.append({"use_dynamic_bsz": True, "max_token_len_per_gpu": 40})
    for clip_level, split in product(CLIP_LEVELS, splits):
        data = share_of_rank(rank, world, -1.3, use_remove_padding=packed, **split)
        gradient, own = gradient_of(engine, data, holder_loss(clip_level))
        gathered: list[dict[str, Metric]] = [{} for _ in range(world)]
        dist.all_gather_object(gathered, own)
        if rank == 0:
            merged = {f"actor/{key}": [Metric.aggregate_dp([m[key] for m in gathered])] for key in gathered[0]}
            metrics = finish_metrics(reduce_metrics(merged))
            results[clip_level, str(split)] = (gradient, {key: float(value) for key, value in metrics.items()})
    if rank == 0:
        torch.save(results, out)
    dist.barrier()
    dist.destroy_process_group()


def on_ranks(work: Callable[..., None], *arguments: Any, port: int, world: int) -> None:
    """Call `work(*arguments, port, rank, world)` in a forked process for each rank."""
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=work, args=(*arguments, str(port), rank, world)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        sys.exit(f"{work.__name__} on {world} ranks failed")


def main() -> None:
    model_dir, out, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    for number, run in enumerate(sys.argv[4:]):
        world, layout = run.split("-")
        on_ranks(
            write_gradients, model_dir, out / f"{run}.pt", layout == "packed", port=port + number, world=int(world)
        )


if __name__ == "__main__":
    main()
