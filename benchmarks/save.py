"""How long a save keeps training waiting, and how long it takes, in the background and in the foreground, by size of state.

    .venv/bin/python -m benchmarks.save [--gigabytes 1 5] [--rounds 3] [--folder FOLDER]

One rank with verl's own checkpoint manager and a model of random float32 weights with Adam's moments, saved to a folder (a
temporary one) and hashed as a run would; while a thread writes, the rank goes on computing what an update mostly is, matrix
products, whose slowdown is told. The two ways take turns; medians.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

WIDTH = 2048
BYTES_OF_A_LAYER = 3 * 4 * WIDTH * WIDTH  # weights and two moments in float32


def manager_of(layers: int) -> Any:
    """verl's checkpoint manager for a model of so many square matrices, sharded by FSDP2 over this one rank."""
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    model(torch.ones(1, WIDTH)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    model.config, model.can_generate = Config(), lambda: False  # type: ignore[assignment]
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    return FSDPCheckpointManager(
        model=model, optimizer=optimizer, lr_scheduler=scheduler, processing_class=None, checkpoint_config=None
    )


class Config:
    """What the manager asks of a Hugging Face config."""

    name_or_path = ""

    def save_pretrained(self, folder: str) -> None:
        Path(folder, "config.json").write_text("{}")


def products_until(done: Any) -> float:
    """Matrix products a second until `done()`."""
    a, began, count = torch.ones(WIDTH // 4, WIDTH // 4), time.monotonic(), 0
    while not done():
        a @ a
        count += 1
    return count / (time.monotonic() - began)


def is_past(end: float) -> bool:
    return time.monotonic() > end


def measure(manager: Any, folder: Path, in_background: bool) -> dict[str, float]:
    from recipe.holderpo.training.rank_save import RankSave

    save, began = RankSave(in_background, ranks_here=1), time.monotonic()
    save.save(lambda: manager.save_checkpoint(str(folder)), lambda: [*folder.glob("*.pt")])
    waited = time.monotonic() - began
    if not in_background:  # the hash, too, is waited for
        while save.part() is None:
            time.sleep(0.01)
        waited = time.monotonic() - began
    rate = products_until(lambda: save.part() is not None) if in_background else float("nan")
    part = save.part()
    assert part is not None and part.error is None, part
    if in_background and not part.copied:
        raise RuntimeError("there is no memory for a copy of a state of this size")
    took = time.monotonic() - began
    shutil.rmtree(folder)
    return {"waited": waited, "took": took, "rate": rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 5.0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="on the disk to be measured")
    arguments = parser.parse_args()
    os.environ["VERL_PLATFORM"] = "cpu"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        for size in arguments.gigabytes:
            manager = manager_of(max(1, round(size * 1e9 / BYTES_OF_A_LAYER)))
            found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
            idle = products_until(partial(is_past, time.monotonic() + 3))
            for _ in range(arguments.rounds):
                for way, measured in found.items():
                    measured.append(measure(manager, Path(folder, "checkpoint"), way))
            waited = {way: statistics.median(one["waited"] for one in measured) for way, measured in found.items()}
            took = {way: statistics.median(one["took"] for one in measured) for way, measured in found.items()}
            rate = statistics.median(one["rate"] for one in found[True]) / idle
            print(
                f"{size:g} GB: training waits {waited[True]:.1f} s in the background, {waited[False]:.1f} s otherwise, "
                f"{waited[True] / waited[False]:.2f} times as long; complete after {took[True]:.1f} and {took[False]:.1f} s; "
                f"meanwhile it computes {rate:.2f} times as fast",
                flush=True,
            )
            del manager
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
