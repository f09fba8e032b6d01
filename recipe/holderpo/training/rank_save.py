"""A rank's part of a checkpoint. Training waits until its state is copied into the machine's memory; a thread writes the
copy.

With `actor_rollout_ref.actor.checkpoint.async_save=false`, and where there is no memory for a copy, it waits for the disk.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from recipe.holderpo.fault_tolerance.checkpoint import Entry, hash_files
from recipe.holderpo.training.verl_internals import files_of_a_save

PART_OF_MEMORY = 0.5
"""Of what is free on the machine when a save begins, at most so much is taken for the copies of all its ranks."""
PROC, CGROUP = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class SavedPart:
    """What a rank wrote in a save: its files, as `hash_files` says, or why there is none."""

    files: dict[str, Entry] = field(default_factory=dict)
    error: str | None = None
    copied: bool = True
    """Whether training went on meanwhile."""


class RankSave:
    """The saves of one rank, one after another.

    Args:
        in_background: whether a thread may write.
        ranks_here: how many ranks share this machine's memory.
    """

    def __init__(self, in_background: bool, ranks_here: int) -> None:
        self._in_background, self._ranks_here = in_background, ranks_here
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._part = _ended(SavedPart(error="nothing has been saved"))

    def save(self, write: Callable[[], None], own_files: Callable[[], Sequence[Path]]) -> None:
        """Call `write`, verl's save of this rank, but let a thread write what it passes to `torch.save`.

        Args:
            own_files: this rank's files, once they are written.

        Raises:
            Exception: what `write` raised, or the copy; `part` says it, too.
        """
        copies = list[tuple[Any, Path]]()
        copied, room = True, PART_OF_MEMORY * available_memory() / self._ranks_here if self._in_background else -1.0

        def take(value: Any, path: str) -> None:
            nonlocal copied, room
            if (size := size_of(value)) <= room:
                room -= size
                copies.append((copy_of(value), Path(path)))
            else:
                copied = False
                torch.save(value, path)

        try:
            with files_of_a_save(take):
                write()
        except Exception as error:
            self._part = _ended(SavedPart(error=_in_a_line(error)))
            raise
        self._part = self._pool.submit(_write, copies, own_files, copied)

    def part(self) -> SavedPart | None:
        """Of the last save; None: it is still being written."""
        return self._part.result() if self._part.done() else None


def _ended(part: SavedPart) -> Future[SavedPart]:
    future: Future[SavedPart] = Future()
    future.set_result(part)
    return future


def _write(copies: list[tuple[Any, Path]], own_files: Callable[[], Sequence[Path]], copied: bool) -> SavedPart:
    try:
        while copies:
            torch.save(*copies.pop(0))  # which frees its memory
        return SavedPart(hash_files(own_files()), copied=copied)
    except Exception as error:  # torch raises what it likes for a full disk
        return SavedPart(error=_in_a_line(error))


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def copy_of(value: Any, made: dict[Any, torch.Tensor] | None = None) -> Any:
    """A state dict whose tensors are copies in the machine's memory, of a DTensor this rank's shard; what shares its memory
    (tied weights) still does."""
    made = {} if made is None else made
    if isinstance(value, torch.Tensor):
        local = getattr(value, "_local_tensor", value)
        place = local.data_ptr(), local.dtype, value.shape, local.stride()
        if place not in made or not local.numel():
            made[place] = value.detach().to("cpu", copy=True)
        return made[place]
    if isinstance(value, dict):
        copied = copy.copy(value)  # with what else it has: a module's state dict has the versions of its parts
        for key, one in value.items():
            copied[key] = copy_of(one, made)
        return copied
    if isinstance(value, list | tuple):
        parts = [copy_of(one, made) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def size_of(value: Any) -> int:
    """Bytes of a state dict's tensors, of a DTensor those of this rank's shard."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield getattr(value, "_local_tensor", value)
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors(one)


def available_memory() -> int:
    """Bytes that may still be taken on this machine, and within the limits of this process's container or job."""
    limits = [psutil.virtual_memory().available]
    for folder in _cgroups():
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):  # not this version of cgroups; no limit ("max")
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                # What is cached of files counts as used, and is given up first.
                free = int((folder / limit).read_text()) - int((folder / used).read_text()) + int(counts.get(cache, 0))
                limits.append(free)
    return min(limits)


def _cgroups() -> Iterator[Path]:
    """Folders of the groups that limit this process's memory, and of those above them."""
    with suppress(OSError):  # not Linux
        for line in PROC.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                root = CGROUP / controllers
                group = root / path.lstrip("/")
                yield from [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
