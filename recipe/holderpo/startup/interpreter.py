"""What Ray and multiprocessing run in the place of Python: it asks the fork server for a process that runs their command.

    HOLDERPO_FORK_SERVER=SOCKET python -S -E interpreter.py [what Python would be given]

Started some twenty times a run, so it imports little. Where there is no server, or the command is not of the two kinds that
are worth a fork (Ray's worker, a spawned process of multiprocessing), it becomes the Python that was asked for.
"""

import json
import os
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

SPAWNED = "from multiprocessing.spawn import"


def main() -> None:
    address, arguments = os.environ.get("HOLDERPO_FORK_SERVER"), sys.argv[1:]
    is_worker = any(os.path.basename(argument) == "default_worker.py" for argument in arguments[:1])
    is_spawned = any(argument.startswith(SPAWNED) for argument in arguments)
    if address and (is_worker or is_spawned):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            try:
                server.connect(address)
                ask(server, arguments, wait=is_spawned)
                forked = server.recv(16)
            except OSError as error:
                print(f"holderpo: cannot fork from {address}: {error}", file=sys.stderr)
            else:
                if forked and is_worker:  # Ray waits for a worker that registers, not for what it has started
                    return
                if forked:
                    wait(server)
                print(f"holderpo: {address} forks nothing for this node; starting Python", file=sys.stderr)
    os.execv(sys.executable, [sys.executable, *arguments])


def ask(server: socket.socket, arguments: list[str], wait: bool) -> None:
    """Send the command, and what a new process here would inherit. In a file, since an environment may be longer than a
    message."""
    fds = [fd for fd in range(250) if fd != server.fileno() and is_open(fd)]
    with open("/proc/self/oom_score_adj") as score:
        inherited = {
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "oom_score_adj": score.read().strip(),
            "fds": fds,
        }
    with open(os.memfd_create("request"), "wb") as file:
        file.write(json.dumps({"arguments": arguments, "wait": wait, **inherited}).encode())
        file.flush()
        socket.send_fds(server, [b"fork"], [file.fileno(), *fds])


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def wait(server: socket.socket) -> NoReturn:
    """End as the forked process ends, and pass on what asks this one to end. (SIGKILL closes the socket, which tells.)"""

    def pass_on(number: int, _: FrameType | None) -> None:
        server.send(str(number).encode())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    status = server.recv(16)
    code = int(status) if status else -signal.SIGKILL  # the server was killed
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
