"""A checkpoint of someone else's runs no code unless it is trusted."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.safe_load import check_holds_no_code


class Evil:
    def __init__(self, made: Path):
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


def checkpoint(folder: Path, **states: Any) -> Path:
    (folder / "global_step_2").mkdir()
    for name, state in states.items():
        torch.save(state, folder / "global_step_2" / f"{name}.pt")
    return folder / "global_step_2"


def test_code_is_found_and_not_run(tmp_path: Path) -> None:
    found = checkpoint(tmp_path, model={"w": torch.ones(2)}, extra_state={"lr": Evil(tmp_path / "made")})
    with pytest.raises(ConfigError, match=r"trust_checkpoint is False; .*extra_state.pt: .*mkdir"):
        check_holds_no_code(found, own=True)
    assert not (tmp_path / "made").exists()
    torch.load(found / "extra_state.pt", weights_only=False)  # as verl does
    assert (tmp_path / "made").exists(), "the file would have done it"


def test_an_opcode_that_names_no_global_is_found_too(tmp_path: Path) -> None:
    """INST builds an object of any class, without the opcodes that a search for GLOBAL would see."""
    found = checkpoint(tmp_path, model={"w": torch.ones(2)})
    harmless = b"(I42\nibuiltins\ncomplex\n."
    (found / "model.pt").write_bytes(harmless)
    with pytest.raises(ConfigError, match=r"model\.pt"):
        check_holds_no_code(found, own=True)


def test_what_verl_saves_passes(tmp_path: Path) -> None:
    """Random states of Python, NumPy and torch, an optimiser and a scheduler; the real shards' own test is a resumed run."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    extra = {"rng": BaseCheckpointManager.get_rng_state(), "lr_scheduler": scheduler.state_dict()}
    check_holds_no_code(
        checkpoint(tmp_path, model=model.state_dict(), optim=optimizer.state_dict(), extra=extra), own=False
    )


def test_pickled_queues_are_trusted_only_from_the_run_itself(tmp_path: Path) -> None:
    (tmp_path / "global_step_2" / "transfer_queue").mkdir(parents=True)
    (tmp_path / "global_step_2" / "transfer_queue" / "controller").write_bytes(b"?")
    found = tmp_path / "global_step_2"
    check_holds_no_code(found, own=True)
    with pytest.raises(ConfigError, match="transfer_queue cannot be checked"):
        check_holds_no_code(found, own=False)
