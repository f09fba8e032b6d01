"""The executable of `warm_start`: `python -I -S warm_client.py SOCKET ARGUMENTS` is run in the place of `python ARGUMENTS`.

It hands its arguments, environment and open files to the zygote, which makes the process; then it lives as long as that
one, passes signals on to it and ends as it ended. It imports next to nothing, so as to start in milliseconds.
"""

import json
import os
import signal
import socket
import sys

MAX_FILES = 253  # the kernel's limit for one message
LENGTH = 8  # bytes that say how long a request is
NUMBER = 16  # bytes of each number in the zygote's answer: the process's pid and, at its end, its wait status


def open_files() -> list[int]:
    """The numbers of this process's open files."""
    return [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]


def main(address: str, arguments: list[str]) -> None:
    # multiprocessing repeats its own interpreter's flags (-B, -u, ...), which are the zygote's too.
    while arguments and arguments[0].startswith("-") and arguments[0] not in ("-", "-c", "-m"):
        del arguments[0]
    if not arguments or arguments[0] in ("-", "-m"):
        sys.exit(f"error: warm_start can run `python FILE` and `python -c CODE`, not `python {' '.join(arguments)}`")
    files = open_files()
    if len(files) > MAX_FILES:
        sys.exit(f"error: warm_start can hand over {MAX_FILES} open files at most, there are {len(files)}")
    request = {
        "argv": arguments,
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "umask": os.umask(0o077),
        "nice": os.nice(0),
        "files": files,
    }
    pid = 0

    def forward(number: int, _: object) -> None:
        if pid == 0:
            os._exit(128 + number)  # the zygote sees that nobody waits for what it starts
        os.kill(pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)
    with socket.socket(socket.AF_UNIX) as zygote:
        zygote.connect(address)
        body = json.dumps(request).encode()
        socket.send_fds(zygote, [len(body).to_bytes(LENGTH, "little")], files)
        zygote.sendall(body)
        for fd in files:
            if fd > 2:
                os.close(fd)  # whoever waits for the end of a pipe is to wait for the process only
        pid = _receive(zygote)
        status = _receive(zygote)
    if os.WIFSIGNALED(status):  # die of the same signal
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def _receive(zygote: socket.socket) -> int:
    answer = zygote.recv(NUMBER, socket.MSG_WAITALL)
    if len(answer) < NUMBER:
        os._exit(1)  # the zygote is gone, and the process with it
    return int(answer)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
