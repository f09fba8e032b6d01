"""The fork server as the run's driver has it. Imports nothing that is slow, since it is started before what is."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType


class ForkServer:
    """A process to fork from, which imports while the driver does other things; ended with the block.

    Its files are in TMPDIR as it is when the block is entered."""

    COMMAND = (sys.executable, "-m", "recipe.holderpo.startup.fork_server")

    folder: Path
    process: "subprocess.Popen[bytes]"
    _asked: bool
    """Whether a node has been given this server."""

    def __enter__(self) -> "ForkServer":
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def interpreter(self) -> Path:
        """What a Ray node that is about to start runs in the place of Python. A server serves one node."""
        if self._asked:
            self._end()
            self._start()
        self._asked = True
        return self.folder / "python"

    def _start(self) -> None:
        self._asked = False
        self.folder = Path(tempfile.mkdtemp(prefix="fork"))
        interpreter, script = self.folder / "python", Path(__file__).with_name("interpreter.py")
        interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{script}" "{self.folder}/socket" "$@"\n')
        interpreter.chmod(0o700)
        command = [*self.COMMAND, str(self.folder)]
        with (self.folder / "log").open("wb") as log:
            # It ends with its standard input, when the driver is killed. A session of its own: Ctrl-C is for the driver.
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def _end(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)
