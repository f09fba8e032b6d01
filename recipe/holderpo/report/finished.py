"""How much a process of the run has finished, for those who watch whether the run gets on (fault_tolerance/progress.py)."""

_finished = 0


def note_finished() -> None:
    """Something was finished in this process: a sample, a turn of an episode, a reward."""
    global _finished
    _finished += 1


def finished() -> int:
    return _finished
