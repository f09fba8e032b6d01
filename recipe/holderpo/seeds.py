"""The seeds of single requests to the engine. Only the standard library is imported."""

import hashlib


def request_seed(seed: int, index: int, sample: int, name: str) -> int:
    """A seed for one sampled response: the same in every run, whatever is sampled beside it.

    Args:
        seed: the run's.
        index: training's global step, or the number of an evaluation's problem.
        sample: which of the samples of the same prompt.
        name: the prompt, or whatever else tells the requests of one `index` apart.

    Returns:
        the first 63 bits, little-endian, of a SHA-256 of all four: others differ but for a chance of 2**-63.
    """
    text = f"{seed}/{index}/{sample}/{name}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
