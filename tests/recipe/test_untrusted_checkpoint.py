"""A checkpoint of someone else's runs no code, though verl loads it with weights_only=False."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOADS = """
import os, sys, torch
from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager

class Evil:
    def __reduce__(self):
        return os.mkdir, (sys.argv[1] + "/made",)

state = BaseCheckpointManager.get_rng_state()
torch.save(state, sys.argv[1] + "/extra_state.pt")
torch.save({"model": Evil()}, sys.argv[1] + "/model.pt")
loaded = torch.load(sys.argv[1] + "/extra_state.pt", weights_only=False)
before = torch.rand(1)
BaseCheckpointManager.load_rng_state(loaded)
assert torch.equal(torch.rand(1), before), "the state comes back"
try:
    torch.load(sys.argv[1] + "/model.pt", weights_only=False)
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(("forced", "said"), [("1", "UnpicklingError"), ("0", "")])
def test_code_in_a_checkpoint_is_not_run(forced: str, said: str, tmp_path: Path) -> None:
    """With the switch that recipe.holderpo.main sets in every process; and, to show that the test can tell, without."""
    environment = os.environ | {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": forced}
    command = [sys.executable, "-c", LOADS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(said) and (tmp_path / "made").exists() == (forced == "0")
