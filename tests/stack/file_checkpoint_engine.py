"""A checkpoint engine for verl's separate_async trainer that needs no accelerator: weights travel as a file.

verl's own (nccl, nixl, mooncake, hccl) move device memory. Chosen by
`actor_rollout_ref.rollout.checkpoint_engine.{backend,custom_backend_module}`, verl's extension point for this.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import torch
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry
from verl.workers.rollout.utils import ensure_async_iterator


@CheckpointEngineRegistry.register("file")
class FileCheckpointEngine(CheckpointEngine):
    """Actor rank 0 writes all weights into one file; every rollout worker reads it once it is there."""

    def __init__(self, bucket_size: int, is_master: bool = False):
        self.is_master = is_master

    def prepare(self) -> dict[str, Any]:
        return {"folder": tempfile.mkdtemp(prefix="weights-") if self.is_master else None}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        (folder,) = (entry["folder"] for entry in metadata if entry["folder"] is not None)
        return {"folder": [folder] * actor_wg_world_size}, {"folder": [folder] * rollout_world_size}

    def init_process_group(self, folder: str) -> None:
        self.file = Path(folder) / "weights.pt"

    def finalize(self) -> None:
        if self.is_master:
            self.file.unlink()
            self.file.parent.rmdir()

    async def send_weights(
        self, weights: Generator[tuple[str, torch.Tensor], None, None], global_steps: int | None = None
    ) -> None:
        # every rank iterates: each weight is gathered from all of them
        gathered = {name: weight.detach().clone() async for name, weight in ensure_async_iterator(weights)}
        if self.is_master:
            part = self.file.with_suffix(".part")
            torch.save(gathered, part)
            os.replace(part, self.file)

    async def receive_weights(  # type: ignore[override]
        self, global_steps: int | None = None
    ) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        while not self.file.exists():
            await asyncio.sleep(0.01)
        for name, weight in torch.load(self.file, weights_only=True).items():
            yield name, weight
