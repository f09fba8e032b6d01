"""A rehearsal's parts: how each went, and the commands that they run."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recipe.holderpo.config.errors import ConfigError

MOST_ERRORS = 5  # of a part


@dataclass
class Part:
    """A line of the table: what was rehearsed, how it went, and how long it took."""

    name: str
    same: str
    replaced: str
    seconds: float = 0.0
    error: str | None = None


@dataclass(kw_only=True)
class Parts:
    """What a rehearsal does, one part after another."""

    parts: list[Part] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(part.error for part in self.parts)

    def errors(self) -> list[str]:
        return [f"error: {part.name}: {line}" for part in self.parts for line in (part.error or "").splitlines()]

    def part(self, name: str, same: str, replaced: str, action: Callable[[], str | None]) -> bool:
        """Do one part, unless an earlier one failed; whether it went well. `action` returns what went wrong."""
        if self.failed:
            return False
        print(f"{name}: {same} ...", flush=True)
        began = time.monotonic()
        try:
            error = action()
        except ConfigError as refused:
            error = "\n".join(refused.lines)
        except Exception as failure:  # what a broken model or a damaged file makes the libraries raise
            error = f"{type(failure).__name__}: {failure}"
        self.parts.append(Part(name, same, replaced, time.monotonic() - began, error))
        return error is None


def run_command(
    command: list[str], nodes: Sequence[Mapping[str, str]], output: Path, log: Path | None = None
) -> str | None:
    """Run a command at each node; what went wrong if it failed at the first one, from its output and its workers' log."""
    with output.open("w") as said:
        started = [
            subprocess.Popen(command, env=dict(node), stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
            for node in nodes
        ]
        try:
            status = started[0].wait()
        finally:
            for process in started:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)  # which ends a run at once, where SIGTERM saves the step first
                process.wait()
    if status == 0:
        return None
    texts = [file.read_text(errors="replace") for file in (log, output) if file is not None and file.exists()]
    errors = errors_in("\n".join(texts)) or ["no error was said"]
    return "\n".join([f"exit status {status}, {output}", *errors[:MOST_ERRORS]])


_PREFIX = re.compile(r"\x1b\[\d+m|^\s*\(\w+ pid=[^)]*\)")  # colours, and Ray's name of a worker
_ERROR = re.compile(r"(?:error: .+|(?:\w+\.)*\w*(?:Error|Exception)\b(?!\().*)")


def errors_in(text: str) -> list[str]:
    """Lines that name an error, each once, in their order: our own, and the last lines of tracebacks. Ray's repetition of a
    worker's error is left out."""
    lines = (_PREFIX.sub("", _PREFIX.sub("", line)).strip() for line in text.splitlines())
    return [*dict.fromkeys(line for line in lines if _ERROR.fullmatch(line))]
