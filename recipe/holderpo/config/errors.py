"""The error of a config that cannot be run."""

import sys


class ConfigError(ValueError):
    """One or several wrong values. Each line names a key, its value and what is allowed.

    Args:
        lines: one for each wrong value; line breaks in one become blanks.
    """

    def __init__(self, *lines: str):
        self.lines = tuple(" ".join(line.split()) for line in lines)
        super().__init__("\n".join(self.lines))


def print_error(error: Exception) -> None:
    """Print an error to stderr, one line for each wrong value."""
    lines = error.lines if isinstance(error, ConfigError) else (" ".join(str(error).split()),)
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
