"""Does a checkpoint hold code? verl loads its pickles as they are (weights_only=False), which runs whatever they name."""

from pathlib import Path

from recipe.holderpo.config.errors import ConfigError

# The transfer queue's state of the asynchronous trainers, which is pickled objects through and through.
QUEUE_FOLDER = "transfer_queue"


def check_holds_no_code(folder: Path, own: bool) -> None:
    """Read every torch file with PyTorch's unpickler of tensors and plain values, which knows no other objects.

    Args:
        folder: the checkpoint's; what is in it and not in its manifest would be loaded by name all the same.
        own: it is in the run's own folder, and its transfer queue, which cannot be checked, was written by this run.

    Raises:
        ConfigError: something in it is not of that kind, or cannot be checked.
    """
    import numpy as np
    import torch
    import torch.distributed.tensor

    if not own and (folder / QUEUE_FOLDER).exists():
        raise ConfigError(_refusal(folder, f"{QUEUE_FOLDER} cannot be checked, it is pickled objects"))
    # NumPy's part of the random state that verl saves.
    rebuild = np.random.get_state()[1].__reduce__()[0]  # type: ignore[index]  # a private function of NumPy
    with torch.serialization.safe_globals([rebuild, np.ndarray, np.dtype, np.dtypes.UInt32DType]):
        for file in sorted(folder.rglob("*.pt")):
            try:
                torch.load(file, weights_only=True, mmap=True, map_location="meta")  # reads no tensor
            except Exception as error:  # an unpickler may raise anything
                lines = str(error).splitlines() or [repr(error)]
                reason = next((line for line in lines if "GLOBAL" in line), lines[0])
                raise ConfigError(_refusal(folder, f"{file.relative_to(folder)}: {reason[:200]}")) from None


def _refusal(folder: Path, reason: str) -> str:
    return (
        f"trust_checkpoint is False; allowed for {folder} is True, since loading it could run code of whoever made it "
        f"({reason})"
    )
