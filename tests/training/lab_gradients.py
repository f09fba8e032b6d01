"""Run by test_lab.py: gradients of the lab's batch through verl's real FSDP2 engine, on one rank.

python lab_gradients.py MODEL_DIR BATCH OUT PORT, with VERL_PLATFORM=cpu. BATCH is a dict of tensors (rows of one length) and
the cases to try; OUT gets the gradient and the loss of each.
"""

import sys
from functools import partial

import torch
from engine_gradients import gradient_of, nested, start_engine  # type: ignore[import-not-found]  # the script beside this one
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig, PolicyLossConfig
from verl.workers.utils.losses import ppo_loss

from recipe.holderpo.policy_loss import HolderLossConfig
from recipe.holderpo.training.worker import P_KEY, loss_with_step_p


def main() -> None:
    model_dir, batch_file, out, port = sys.argv[1:]
    engine = start_engine(model_dir, 0, 1, port)
    batch = torch.load(batch_file, weights_only=False)
    ids, mask = batch["ids"], batch["mask"]
    lengths, prompt = mask.sum(1).tolist(), ids.shape[1] - mask.shape[1]
    rows = TensorDict(
        {
            "prompts": nested(list(ids[:, :prompt])),
            "responses": nested([row[prompt : prompt + n] for row, n in zip(ids, lengths, strict=True)]),
            "input_ids": nested([row[: prompt + n] for row, n in zip(ids, lengths, strict=True)]),
            "position_ids": nested([torch.arange(prompt + n) for n in lengths]),
            "response_mask": nested([torch.ones(n, dtype=torch.int64) for n in lengths]),
            "loss_mask": nested([torch.ones(n, dtype=torch.int64) for n in lengths]),
            "old_log_probs": nested([row[:n] for row, n in zip(batch["old_log_prob"], lengths, strict=True)]),
            "advantages": nested([a.expand(n) for a, n in zip(batch["advantages"], lengths, strict=True)]),
        },
        batch_size=len(ids),
    )
    results = {}
    for name, (order, clip_level, clip) in batch["cases"].items():
        vanilla = name == "vanilla"
        actor = FSDPActorConfig(
            strategy="fsdp2",
            rollout_n=1,
            ppo_micro_batch_size_per_gpu=1,
            loss_agg_mode="seq-mean-token-mean",
            clip_ratio_low=clip,
            clip_ratio_high=clip,
            clip_ratio_c=1e6,  # the dual clip of verl's vanilla loss, which the lab does not have
            policy_loss=PolicyLossConfig() if vanilla else HolderLossConfig(clip_level=clip_level),
        )
        loss_fn = partial(ppo_loss, config=actor)
        data = rows.clone()
        tu.assign_non_tensor(
            data,
            temperature=1.0,
            global_batch_size=len(ids),
            use_remove_padding=False,
            use_fused_kernels=False,
            calculate_entropy=False,
            use_dynamic_bsz=False,
            micro_batch_size_per_gpu=len(ids),
            **{P_KEY: order},
        )
        gradient, metrics = gradient_of(
            engine, data, loss_fn if vanilla else partial(loss_with_step_p, loss_fn=loss_fn)
        )
        results[name] = gradient, float(metrics["actor/pg_loss"].aggregate())
    torch.save(results, out)


if __name__ == "__main__":
    main()
