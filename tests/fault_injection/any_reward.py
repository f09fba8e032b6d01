"""A reward that an untrained model meets now and then, so that groups have a signal: digits among its bytes."""

import threading
import time
from pathlib import Path

POLL_SECONDS = 0.05

trained_on = 0  # rewards for training that this process has given
counting = threading.Lock()


def compute_score(data_source, solution_str, ground_truth, extra_info=None, nan_every=0, gate=None, **_):
    """1 for an odd number of digits, else 0.

    Args:
        nan_every: one in about so many texts has a reward that is no number; 0: none.
        gate: a file with a number. After so many rewards for training, this process makes `reached(gate)` and gives no more
            while the gate exists. So a test can do something in the middle of a known step, however fast the run is.
    """
    if gate and extra_info["split"] == "train":
        wait_for(Path(gate))
    score = float(sum(character.isdigit() for character in solution_str) % 2)
    if nan_every and sum(map(ord, solution_str)) % nan_every == 0:
        score = float("nan")
    return {"score": score, "acc": score}


def wait_for(gate: Path) -> None:
    global trained_on
    with counting:
        trained_on += 1
        number = trained_on
    while not passes(gate, number):
        reached(gate).touch()
        time.sleep(POLL_SECONDS)


def passes(gate: Path, number: int) -> bool:
    try:
        return number <= int(gate.read_text())
    except FileNotFoundError:
        return True


def reached(gate: Path) -> Path:
    return gate.with_name(f"{gate.name}.reached")
