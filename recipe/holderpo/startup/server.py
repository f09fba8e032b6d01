"""The fork server for the one who starts a Ray node. Imports nothing slow, since it is started before what is."""

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

ADDRESS = "HOLDERPO_FORK_SERVER"
"""Environment variable with the socket of a node's server. Where it is not set, workers are started as ever."""
INTERPRETER = shlex.join([sys.executable, "-S", "-E", str(Path(__file__).with_name("interpreter.py"))])
"""What Ray's workers run in the place of Python: `py_executable` of Ray's runtime environment, the same on all nodes."""


class ForkServer:
    """A process to fork from, which imports while other things are done; ended with the block.

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

    def pids(self) -> list[int]:
        return [self.process.pid]

    def for_a_node(self) -> dict[str, str]:
        """Environment variables for a Ray node that is about to start. A server serves one node."""
        if self._asked:
            self._end()
            self._start()
        self._asked = True
        return {ADDRESS: str(self.folder / "socket")}

    def _start(self) -> None:
        self._asked = False
        self.folder = Path(tempfile.mkdtemp(prefix="fork"))
        command = [*self.COMMAND, str(self.folder)]
        with (self.folder / "log").open("wb") as log:
            # It ends with its standard input, when the driver is killed. A session of its own: Ctrl-C is for the driver.
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def _end(self) -> None:
        status = self.process.poll()
        if status is not None:
            said = ((self.folder / "log").read_text(errors="replace").strip() or "no word").splitlines()[-1]
            note = (
                f"the process to fork from ended by itself (status {status}: {said}); workers were started one by one"
            )
            print(f"note: {note}", file=sys.stderr, flush=True)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)
