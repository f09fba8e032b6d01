"""Forward + backward of the HölderPO loss, metrics included, against verl's own losses: time, temporaries, host syncs.

    python benchmarks/loss.py [--repeats 50] [--device cuda]

One thread on the CPU. Every loss gets what verl hands over: (B, T) float32 log-probabilities, a bool mask of
responses of random length in [T/2, T], one advantage a response expanded to (B, T). The losses run interleaved, in
a new random order each round, and the table divides medians. The gradient is taken with respect to the
log-probabilities (`torch.autograd.grad`), as a model's backward pass would ask for it.

- peak: largest sum of live storages allocated during forward + backward, over B*T*4 bytes; the gradient returned
  counts, the inputs do not. On the CPU from the allocation and release events of torch's profiler, on CUDA from
  `torch.cuda.max_memory_allocated`.
- syncs: calls of `aten::_local_scalar_dense` (what `.item()` and `float(tensor)` run) and of `Tensor.tolist`.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

from holderpo_core import CLIP_LEVELS, ClipLevel, holder_policy_loss

SHAPES = ((8, 3000), (64, 3000), (256, 1024))
HOLDER_P = (2.0, 0.0, -2.0)
VERL_LOSSES = ("vanilla", "gspo", "geo_mean")


def make_losses(batch: int, length: int, device: str) -> dict[str, Callable[[], Tensor]]:
    """Name of the loss -> forward and backward, returning the gradient (B, T)."""
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(batch, length, generator=generator)
    new = (old + 0.1 * torch.randn(batch, length, generator=generator)).to(device).requires_grad_()
    old = old.to(device)
    lengths = torch.randint(length // 2, length + 1, (batch, 1), generator=generator)
    mask = (torch.arange(length) < lengths).to(device)
    advantages = torch.randn(batch, 1, generator=generator).to(device) * mask
    config = FSDPActorConfig(strategy="fsdp2", rollout_n=8, ppo_micro_batch_size_per_gpu=batch)

    def verl_loss(name: str) -> Callable[[], Tensor]:
        function = get_policy_loss_fn(name)
        mode = "seq-mean-token-mean"
        return lambda: torch.autograd.grad(function(old, new, advantages, mask, mode, config)[0], new)[0]

    def holder(clip_level: ClipLevel, p: float | Tensor) -> Callable[[], Tensor]:
        def run() -> Tensor:
            loss, _ = holder_policy_loss(new, old, advantages, mask, p, clip_level=clip_level)
            return torch.autograd.grad(loss, new)[0]

        return run

    losses = {name: verl_loss(name) for name in VERL_LOSSES}
    losses |= {f"holder {level} p={p:g}": holder(level, p) for level in CLIP_LEVELS for p in HOLDER_P}
    per_response = torch.linspace(-2, 2, batch, device=device)
    return losses | {f"holder {level} p per response": holder(level, per_response) for level in CLIP_LEVELS}


def time_once(run: Callable[[], Tensor], device: str) -> float:
    """Milliseconds of one call; on CUDA by events around it, the device idle before and after."""
    if device == "cpu":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def median_times(losses: dict[str, Callable[[], Tensor]], repeats: int, device: str) -> dict[str, float]:
    """Median milliseconds of each loss over `repeats` interleaved rounds, after three rounds of warm-up."""
    order, shuffle = list(losses), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in losses}
    for round_ in range(repeats + 3):
        shuffle.shuffle(order)
        for name in order:
            elapsed = time_once(losses[name], device)
            if round_ >= 3:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(run: Callable[[], Tensor], device: str) -> int:
    """Most bytes alive at once of what `run` allocates."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        gradient = run()
    del gradient
    events = sorted(
        (e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    )
    live = peak = 0
    for event in events:
        live += event.nbytes()
        peak = max(peak, live)
    return peak


class _CountScalarReads(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def host_syncs(run: Callable[[], Tensor]) -> int:
    """Device-to-host reads of one call."""
    original = Tensor.tolist
    lists = 0

    def counted(tensor: Tensor) -> object:
        nonlocal lists
        lists += 1
        return original(tensor)

    with _CountScalarReads() as reads, mock.patch.object(Tensor, "tolist", counted):
        run()
    return reads.count + lists


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50, help="timed rounds per shape")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    times, peaks, syncs = {}, {}, {}
    for shape in SHAPES:
        losses = make_losses(*shape, arguments.device)
        times[shape] = median_times(losses, arguments.repeats, arguments.device)
        unit = shape[0] * shape[1] * 4
        peaks[shape] = {name: peak_bytes(run, arguments.device) / unit for name, run in losses.items()}
        syncs = {name: host_syncs(run) for name, run in losses.items()}

    print(f"torch {torch.__version__}, {arguments.device}, {arguments.repeats} rounds. Time: median over vanilla's.\n")
    print("| loss | " + " | ".join(f"{shape} time" for shape in SHAPES) + " | peak, x B*T*4 bytes | syncs |")
    print("|---" * (len(SHAPES) + 3) + "|")
    for name in losses:
        ratios = " | ".join(f"{times[s][name] / times[s]['vanilla']:.2f}" for s in SHAPES)
        print(f"| {name} | {ratios} | {max(peaks[s][name] for s in SHAPES):.2f} | {syncs[name]} |")
    print("\nvanilla, ms: " + ", ".join(f"{shape} {times[shape]['vanilla']:.2f}" for shape in SHAPES))


if __name__ == "__main__":
    main()
