"""Run by test_reshard.py: saves of verl's real FSDP2 engine on 1, 2 and 4 ranks, each loaded on 1, 2 and 4, and by verl.

python engine_checkpoint.py MODEL_DIR OUT PORT, with VERL_PLATFORM=cpu. Ranks are forked, so that verl is imported once.
Writes OUT/saved_N.pt (the whole state when it was saved on N ranks, and after one more update) and OUT/N_on_M.pt (the same
when it has been loaded on M ranks) and OUT/N_by_verl.pt. The saves are written in the background, after that further update.
"""

import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from engine_gradients import (  # type: ignore[import-not-found]  # the script beside this one
    SEQUENCES,
    holder_loss,
    on_ranks,
    share_of_rank,
    start_engine,
)
from torch.distributed.tensor import DTensor

from recipe.holderpo.training.rank_save import RankSave
from recipe.holderpo.training.reshard import load_on_other_ranks, ranks_of

RANKS = (1, 2, 4)
UPDATES = 3


def update(engine: Any, rank: int, world: int) -> None:
    split = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": SEQUENCES // world}
    data = share_of_rank(rank, world, 1.5, use_remove_padding=False, **split)
    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(data, holder_loss("sequence"))
        engine.optimizer_step()
        engine.lr_scheduler_step()


def whole(value: Any) -> Any:
    """A state dict with whole tensors, on every rank."""
    if isinstance(value, DTensor):
        return value.full_tensor().clone()
    if isinstance(value, dict):
        return {key: whole(one) for key, one in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else value


def state(engine: Any) -> dict[str, Any]:
    return {
        "model": whole(engine.module.state_dict()),
        "optimizer": whole(engine.optimizer.state_dict()["state"]),
        "rate": engine.lr_scheduler.state_dict(),
    }


def states_around_an_update(engine: Any, rank: int, world: int) -> list[dict[str, Any]]:
    before = state(engine)
    update(engine, rank, world)
    return [before, state(engine)]


def save(model_dir: str, out: Path, port: str, rank: int, world: int) -> None:
    engine = start_engine(model_dir, rank, world, port)
    for _ in range(UPDATES):
        update(engine, rank, world)
    folder, ranks_part, has_moved = out / str(world), RankSave(in_background=True, ranks_here=world), threading.Event()
    own = f"*_{world}_rank_{rank}.pt"
    ranks_part._pool.submit(has_moved.wait)  # nothing is written before the state is another one
    try:
        ranks_part.save(lambda: engine.save_checkpoint(str(folder)), lambda: sorted(folder.glob(own)))
        states = states_around_an_update(engine, rank, world)
        assert ranks_part.part() is None and not [*folder.glob(own)]
    finally:
        has_moved.set()
    while (part := ranks_part.part()) is None:
        time.sleep(0.01)
    assert part.copied and part.error is None and len(part.files) == 3, part
    if rank == 0:
        torch.save(states, out / f"saved_{world}.pt")
    dist.barrier()


def load(model_dir: str, out: Path, port: str, rank: int, world: int) -> None:
    engine = start_engine(model_dir, rank, world, port)
    manager = engine.checkpoint_manager
    by_us = {f"{saved}_on_{world}": (saved, partial(load_on_other_ranks, manager)) for saved in RANKS}
    by_verl = {f"{world}_by_verl": (world, lambda folder: engine.load_checkpoint(str(folder)))}
    for name, (saved, load_from) in (by_us | by_verl).items():
        folder = out / str(saved)
        assert ranks_of(folder) == saved
        load_from(folder)
        if rank == 0:
            shards = [p for p in engine.module.parameters() if isinstance(p, DTensor)]
            moments = [s["exp_avg"] for s in engine.optimizer.state.values()]
            assert all(m.placements == p.placements for m, p in zip(moments, shards, strict=True))
        states = states_around_an_update(engine, rank, world)
        if rank == 0:
            torch.save(states, out / f"{name}.pt")
        dist.barrier()


def main() -> None:
    model_dir, out, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    for number, (work, world) in enumerate([(work, world) for work in (save, load) for world in RANKS]):
        on_ranks(work, model_dir, out, port=port + number, world=world)


if __name__ == "__main__":
    main()
