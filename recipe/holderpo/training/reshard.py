"""Load a checkpoint of N ranks on M: verl's files hold one shard a rank, and verl reads them on N ranks alone.

Every rank reads all files, mapped into memory and tensor by tensor, so that it takes the memory of one whole tensor beside
its own shards. For FSDP2, whose shards are DTensors. Unnecessary once verl's checkpoints reshard, as those of
torch.distributed.checkpoint do.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

_FILE = re.compile(r"model_world_size_(\d+)_rank_\d+\.pt")


def ranks_of(folder: Path) -> int:
    """On how many ranks the checkpoint in `folder` (global_step_N/actor) was saved.

    Raises:
        FileNotFoundError: there is none.
    """
    for file in folder.glob("model_world_size_*.pt"):
        if found := _FILE.fullmatch(file.name):
            return int(found[1])
    raise FileNotFoundError(f"{folder} has no model_world_size_*_rank_*.pt")


def load_on_other_ranks(manager: Any, folder: Path) -> None:
    """Load model, optimizer, learning rate and random state through verl's checkpoint manager of this rank.

    The random state of rank r is that of the saved rank r, or r modulo their number; no part of training draws from it unless
    the model has dropout.
    """
    saved, rank = ranks_of(folder), dist.get_rank()
    if manager.should_load_model:
        own = manager.model.state_dict()
        model = _whole(_read(folder, "model", saved), lambda path: own[path[0]])
        manager.model.load_state_dict(model, strict=not manager.is_lora_only_state_dict(model))
    if manager.should_load_optimizer:
        parameters = [parameter for group in manager.optimizer.param_groups for parameter in group["params"]]
        # {"state": {number of the parameter: {"exp_avg": ...}}, "param_groups": ...}
        state = _whole(_read(folder, "optim", saved), lambda path: parameters[path[1]])
        manager.optimizer.load_state_dict(state)
    if manager.should_load_extra:
        file = folder / f"extra_state_world_size_{saved}_rank_{rank % saved}.pt"
        extra = torch.load(file, map_location="cpu", weights_only=False)
        manager.load_rng_state(extra["rng"])
        if extra["lr_scheduler"] is not None and manager.lr_scheduler is not None:
            manager.lr_scheduler.load_state_dict(extra["lr_scheduler"])
    dist.barrier()


def _read(folder: Path, part: str, saved: int) -> list[Any]:
    """A part of the checkpoint as each of its ranks saved it."""
    files = [folder / f"{part}_world_size_{saved}_rank_{rank}.pt" for rank in range(saved)]
    return [torch.load(file, map_location="cpu", weights_only=False, mmap=True) for file in files]


def _whole(saved: Sequence[Any], like: Callable[[tuple[Any, ...]], torch.Tensor], path: tuple[Any, ...] = ()) -> Any:
    """What the ranks saved, put together, and divided anew as the tensor that `like` names for a place is."""
    first = saved[0]
    if isinstance(first, DTensor):
        return divided(joined(saved), like(path))
    if isinstance(first, dict):
        return type(first)((key, _whole([one[key] for one in saved], like, (*path, key))) for key in first)
    # A number, a list of settings, or a tensor that is the same on each rank; without a hold on the file, which may go.
    return first.clone() if isinstance(first, torch.Tensor) else first


def joined(shards: Sequence[DTensor]) -> torch.Tensor:
    """The tensor of which each rank had a shard.

    Args:
        shards: of all ranks, in their order.

    Raises:
        ValueError: it was divided otherwise than FSDP2 divides.
    """
    placements, mesh = shards[0].placements, shards[0].device_mesh.mesh
    sharded = [(number, placement.dim) for number, placement in enumerate(placements) if isinstance(placement, Shard)]
    if len(sharded) > 1 or not all(isinstance(placement, Shard | Replicate) for placement in placements):
        raise ValueError(f"a tensor is divided by {placements}; allowed is at most one dimension, as FSDP2 divides it")
    if not sharded:
        return shards[0].to_local().clone()
    ((number, dim),) = sharded
    owners = (
        mesh.movedim(number, 0).reshape(mesh.shape[number], -1)[:, 0].tolist()
    )  # of each part the first of its replicas
    return torch.cat([shards[owner].to_local() for owner in owners], dim)


def divided(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's shard of it, on `like`'s devices; nothing is sent."""
    if not isinstance(like, DTensor):
        return whole
    shard = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return shard.clone()  # else it keeps all of `whole`
