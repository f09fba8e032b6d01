"""Start Python processes as forks of one that has done the imports: `warm_start: true`, on one Linux machine.

verl, Ray and vLLM start a dozen Python processes a run, most of them one after another, and each spends 5 to 15 CPU seconds
on importing torch, transformers, verl and vLLM; on a few cores that is most of the time before the first step. So one
process, the zygote, imports all of it while the driver still checks its config, and the others are forked from it:

    driver          `warm_python()` starts the zygote and yields the path of an executable to be used in place of `python`
    that executable this file as a script: hands its arguments, environment and open files to the zygote, then lives as
                    long as the process that was made of them, passes signals on to it and ends with its exit status
    zygote          this file as a script with `--zygote`: forks once per request and waits for its children

Ray takes the executable by its option `runtime_env.py_executable`, multiprocessing by `set_executable`. No process outlives
the ones above it: the zygote ends its children when their client is gone (however it died) and itself when the driver is,
and the kernel ends the children with the zygote.

A fork differs from a fresh interpreter in what was read while importing: such settings (`TQ_*`, the logging levels,
PYTHONHASHSEED, LD_PRELOAD) must be in the driver's environment before `warm_python()`. torch's number of threads is set
again from OMP_NUM_THREADS; vLLM's pinning of threads to cores (GOMP_CPU_AFFINITY) has no effect.

Unnecessary once Ray can fork its workers from a preloaded process (its `worker_preload_modules` loads in each of them).
"""

import os
import sys

# The client runs this file with `python -I -S`: what follows is all that it imports, so that it starts in milliseconds.
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

# What the processes of a run import, in all of them together. Importing must start no thread.
MODULES = (
    "verl.trainer.main_ppo",
    "verl.trainer.ppo.v1",
    "verl.workers.engine_workers",
    "verl.workers.engine.fsdp",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "verl.experimental.agent_loop",
    "verl.experimental.reward_loop",
    "verl.utils.tracking",
    "transfer_queue",
    "recipe.holderpo.trainer",
)
MAX_FDS = 253  # the kernel's limit for one message
_LENGTH = 8  # bytes of a message's length


# --- the driver -----------------------------------------------------------------------------------------------------------


@contextmanager
def warm_python(modules: tuple[str, ...] = MODULES) -> Iterator[str]:
    """Start a zygote that imports `modules`; yields the path of an executable that takes `python`'s place.

    The executable may be used at once; it waits until the imports are done. It serves `python FILE ...` and
    `python -c CODE ...`. When the block is left, every process that was started through it is ended.
    Should the zygote die before (an import that fails, say), the driver ends with an error: Ray would try for ever.
    """
    import shlex
    import shutil
    import subprocess
    import tempfile
    import threading

    folder = tempfile.mkdtemp(prefix="holderpo-")  # only this user can enter it, and so reach the socket
    address, executable = f"{folder}/socket", f"{folder}/python"
    with open(executable, "w") as script:
        command = shlex.join([sys.executable, "-I", "-S", __file__, address])
        script.write(f'#!/bin/sh\nexec {command} "$@"\n')
    os.chmod(executable, 0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(128)
        zygote = subprocess.Popen(
            [sys.executable, *subprocess._args_from_interpreter_flags(), __file__, "--zygote"]  # type: ignore[attr-defined]
            + [str(listener.fileno()), folder, *modules],
            stdin=subprocess.PIPE,  # never written to: its end tells the zygote that the driver is gone
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the driver
        )
    closing = threading.Event()

    def watch() -> None:
        status = zygote.wait()
        if not closing.is_set():
            print(f"error: the process that imports for the others (warm_start) ended, status {status}", file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield executable
    finally:
        closing.set()
        assert zygote.stdin is not None
        zygote.stdin.close()
        watcher.join()
        shutil.rmtree(folder, ignore_errors=True)  # the zygote has removed it, unless it was killed


# --- the client -----------------------------------------------------------------------------------------------------------


def client(address: str, arguments: list[str]) -> NoReturn:
    """Have the zygote run `python *arguments` with this process's environment and files; exit as it exits."""
    while arguments and arguments[0].startswith("-") and arguments[0] != "-c":
        flag = arguments.pop(0)  # -B, -u, ...: multiprocessing repeats its own interpreter's flags, which the zygote has too
        if flag in ("-m", "-"):
            sys.exit(f"error: warm_start runs `python FILE` and `python -c CODE`, not `python {flag}`")
    fds = [int(fd) for fd in os.listdir("/proc/self/fd")]
    fds = [fd for fd in fds if _is_open(fd)]  # without the one that listed them
    request = {
        "argv": arguments,
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "umask": os.umask(0o077),
        "nice": os.nice(0),
        "fds": fds,
    }
    if len(fds) > MAX_FDS:
        sys.exit(f"error: warm_start can hand over {MAX_FDS} open files at most, there are {len(fds)}")
    child: list[int] = []

    def forward(number: int, _: Any) -> None:
        if child:
            os.kill(child[0], number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        signal.signal(number, forward)
    with socket.socket(socket.AF_UNIX) as zygote:
        zygote.connect(address)
        body = json.dumps(request).encode()
        socket.send_fds(zygote, [len(body).to_bytes(_LENGTH, "little")], fds)
        zygote.sendall(body)
        for fd in fds:
            if fd > 2:
                os.close(fd)  # whoever waits for the end of a pipe must wait for the child only
        child.append(int(_receive(zygote)))
        status = int(_receive(zygote))
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(status) != signal.SIGKILL else None
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _receive(connection: socket.socket) -> str:
    line = connection.recv(16, socket.MSG_WAITALL)
    if len(line) < 16:
        os._exit(1)  # the zygote is gone, and with it the child
    return line.decode()


# --- the zygote -----------------------------------------------------------------------------------------------------------


def zygote(listener_fd: int, folder: str, modules: list[str]) -> dict[str, Any]:
    """Import `modules`, then serve for ever. Returns in the forked children only, with what they are to run."""
    import ctypes
    import gc
    import importlib
    import multiprocessing
    import selectors
    import shutil
    import threading

    for name in modules:
        importlib.import_module(name)
    multiprocessing.set_executable(f"{folder}/python")
    if len(threading.enumerate()) > 1:
        sys.exit(f"error: warm_start: importing started threads, which do not survive a fork: {threading.enumerate()}")
    libc = ctypes.CDLL(None)
    gc.collect()
    gc.freeze()  # the children share these pages as long as the collector leaves them alone

    listener = socket.socket(fileno=listener_fd)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, "request")
    selector.register(0, selectors.EVENT_READ, "driver gone")
    own_pid = os.getpid()
    while True:
        for key, _ in selector.select():
            if key.data == "driver gone":
                shutil.rmtree(folder, ignore_errors=True)
                os._exit(0)  # the kernel kills the children (see `become`)
            elif key.data == "request":
                connection, _ = listener.accept()
                received = receive_request(connection)
                if received is None:
                    continue
                request, fds = received
                sys.stdout.flush()
                sys.stderr.flush()
                pid = os.fork()
                if pid == 0:
                    become(request, fds, libc, own_pid)
                    return request
                for fd in fds:
                    os.close(fd)
                _send(connection, pid)
                pidfd = os.pidfd_open(pid)
                selector.register(connection, selectors.EVENT_READ, ("client gone", pid))
                selector.register(pidfd, selectors.EVENT_READ, ("child gone", pid, connection))
            elif key.data[0] == "client gone":
                selector.unregister(key.fileobj)
                os.kill(key.data[1], signal.SIGKILL)  # not yet waited for, so the pid is still this child's
            else:
                _, pid, connection = key.data
                _, status = os.waitpid(pid, 0)
                selector.unregister(key.fd)
                os.close(key.fd)
                if connection in [k.fileobj for k in selector.get_map().values()]:
                    selector.unregister(connection)
                _send(connection, status)
                connection.close()


def receive_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """A request and its open files, under numbers of this process. None if the client died first."""
    head, fds, _, _ = socket.recv_fds(connection, _LENGTH, MAX_FDS)
    body = b""
    if len(head) == _LENGTH:
        body = connection.recv(int.from_bytes(head, "little"), socket.MSG_WAITALL)
    if len(head) < _LENGTH or len(body) < int.from_bytes(head, "little"):
        connection.close()
        for fd in fds:
            os.close(fd)
        return None
    return json.loads(body), fds


def _send(connection: socket.socket, number: int) -> None:
    try:
        connection.sendall(f"{number:16d}".encode())
    except OSError:
        pass  # the client died; its end has been, or will be, noticed as "client gone"


def become(request: dict[str, Any], fds: list[int], libc: Any, zygote_pid: int) -> None:
    """In a new child: take over the client's files, environment and the rest of a process's state."""
    import fcntl
    import gc
    import multiprocessing

    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the zygote
    if os.getppid() != zygote_pid:
        os._exit(1)
    os.setsid()
    wanted = request["fds"]
    above = max([2, *wanted, *fds]) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in fds]
    os.closerange(0, above)
    for source, target in zip(moved, wanted, strict=True):
        os.dup2(source, target)
    os.closerange(above, max(moved, default=above) + 1)

    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.nice(request["nice"] - os.nice(0))
    multiprocessing.current_process().authkey = os.urandom(32)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # `random` does it by itself at a fork, torch starts from a constant anyhow
    if "torch" in sys.modules and os.environ.get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))
    gc.unfreeze()


def run_as_main(arguments: list[str]) -> None:
    """As `python *arguments`: a file or `-c CODE`, in a new `__main__`."""
    import types

    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    if arguments[0] == "-c":
        source, filename, sys.argv, sys.path[0] = arguments[1], "<string>", ["-c", *arguments[2:]], ""
    else:
        filename, sys.argv, sys.path[0] = arguments[0], arguments, os.path.dirname(os.path.abspath(arguments[0]))
        main.__file__ = filename
        with open(filename, encoding="utf-8") as file:
            source = file.read()
    sys.modules["__main__"] = main
    exec(compile(source, filename, "exec"), main.__dict__)


if __name__ == "__main__":
    if sys.argv[1] == "--zygote":
        run_as_main(zygote(int(sys.argv[2]), sys.argv[3], sys.argv[4:])["argv"])
    else:
        client(sys.argv[1], sys.argv[2:])
