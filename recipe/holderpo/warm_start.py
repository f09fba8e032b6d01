"""Start Python processes as forks of one that has done the imports: `warm_start: true`, on one Linux machine.

verl, Ray and vLLM start a dozen Python processes a run, most of them one after another, and each imports torch,
transformers, verl and vLLM anew; on a few cores that is most of the time before the first step. So one process, the
zygote, imports all of it while the driver still checks its config, and the others are forked from it. `warm_python` yields
the path of an executable to be used in place of `python` (warm_client.py says what it does): Ray takes it as
`runtime_env.py_executable`, multiprocessing by `set_executable`.

No process outlives the ones above it: the zygote ends a child whose client is gone, however that died, and itself when the
driver is; the kernel ends the children with the zygote.

A fork differs from a fresh interpreter in what was read while importing: such settings (`TQ_*`, logging levels,
PYTHONHASHSEED, LD_PRELOAD) must be in the driver's environment before `warm_python()`. torch's number of threads is set
again from OMP_NUM_THREADS; pinning OpenMP's threads to cores (vLLM sets GOMP_CPU_AFFINITY) has no effect.

Unnecessary once Ray forks its workers from a preloaded process (its `worker_preload_modules` loads in each of them).
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from recipe.holderpo import warm_client

# What the processes of a run import, all of them together. Importing must neither start threads nor keep files open.
MODULES = (
    "verl.trainer.main_ppo",
    "verl.trainer.ppo.v1",
    "verl.workers.engine_workers",
    "verl.workers.engine.fsdp",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "verl.experimental.agent_loop",
    "verl.experimental.reward_loop",
    "recipe.holderpo.trainer",
)


@contextmanager
def warm_python(modules: tuple[str, ...] = MODULES) -> Iterator[str]:
    """Start a zygote that imports `modules`; yields the path of an executable that stands for `python`.

    It may be used at once (it waits for the imports), as `python FILE ...` or `python -c CODE ...`. When the block is left,
    every process that was started by it is ended. Should the zygote end before, by an import that fails, say, this
    process ends with an error too: Ray would try for ever to start its workers.
    """
    folder = Path(tempfile.mkdtemp(prefix="holderpo-"))  # only this user can reach the socket in it
    executable = folder / "python"
    client = shlex.join([sys.executable, "-I", "-S", warm_client.__file__, str(folder / "socket")])
    executable.write_text(f'#!/bin/sh\nexec {client} "$@"\n')
    executable.chmod(0o700)
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    with socket.socket(socket.AF_UNIX) as listener, (folder / "log").open("w") as log:
        listener.bind(str(folder / "socket"))
        listener.listen(128)
        zygote = subprocess.Popen(
            [sys.executable, *flags, "-m", __name__, str(listener.fileno()), str(folder), *modules],
            stdin=subprocess.PIPE,  # never written to: its end tells the zygote that this process is gone
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for this process
        )
    closing = threading.Event()

    def watch() -> None:
        status = zygote.wait()
        if not closing.is_set():
            error = f"error: warm_start: the process that imports for the others ended with status {status}\n"
            os.write(2, ((folder / "log").read_text() + error).encode())
            shutil.rmtree(folder)
            os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield str(executable)
    finally:
        closing.set()
        zygote.kill()
        watcher.join()
        shutil.rmtree(folder)


def zygote(listener_fd: int, folder: str, modules: list[str]) -> list[str]:
    """Import `modules`, then serve for ever. Returns in the forked children only, with the arguments to run."""
    with _ray_ids_untouched():
        for name in modules:
            importlib.import_module(name)
    if threading.active_count() > 1:
        sys.exit(f"error: importing started threads, which do not survive a fork: {threading.enumerate()}")
    if extra := set(warm_client.open_files()) - {0, 1, 2, listener_fd}:
        sys.exit(f"error: importing left files open: {[os.readlink(f'/proc/self/fd/{fd}') for fd in extra]}")
    multiprocessing.set_executable(f"{folder}/python")
    gc.collect()
    gc.freeze()  # the collector then leaves what is there alone, and the children share its memory

    listener = socket.socket(fileno=listener_fd)
    clients: dict[int, socket.socket] = {}  # by the pid of the child
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ, ("driver gone", 0))
    selector.register(listener, selectors.EVENT_READ, ("request", 0))
    zygote_pid = os.getpid()
    while True:
        for key, _ in selector.select():
            event, pid = key.data
            if event == "driver gone":
                shutil.rmtree(folder, ignore_errors=True)
                os._exit(0)  # the kernel then kills the children, see `_become`
            elif event == "request":
                client, _ = listener.accept()
                request, files = _receive_request(client)
                if request is None:
                    client.close()
                    continue
                pid = os.fork()
                if pid == 0:
                    for held in (listener, client, *clients.values()):
                        held.detach()  # collected later, they would close what has their number by then
                    selector.close()
                    _become(request, files, zygote_pid)
                    return request["argv"]
                for fd in files:
                    os.close(fd)
                clients[pid] = client
                _answer(client, pid)
                selector.register(client, selectors.EVENT_READ, ("client gone", pid))
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, ("child gone", pid))
            elif event == "client gone" and pid in clients:  # not waited for yet, so the pid is still the child's
                selector.unregister(key.fileobj)
                os.kill(pid, signal.SIGKILL)
            elif event == "child gone":
                selector.unregister(key.fileobj)
                os.close(key.fd)
                client = clients.pop(pid)
                if client.fileno() in selector.get_map():
                    selector.unregister(client)
                _answer(client, os.waitpid(pid, 0)[1])
                client.close()


@contextmanager
def _ray_ids_untouched() -> Iterator[None]:
    """Ray draws the ids of its objects from a generator that is seeded at its first use, so a child of a process that had
    used it would draw the same ids as its siblings. Decorating an actor class draws one: take that from elsewhere.
    """
    import ray.actor

    class ActorClassID(ray.ActorClassID):
        @classmethod
        def from_random(cls) -> ray.ActorClassID:
            return ray.ActorClassID(os.urandom(ray.ActorClassID.size()))

    ray.actor.ActorClassID = ActorClassID
    yield
    ray.actor.ActorClassID = ray.ActorClassID
    drawn = []
    for _ in range(2):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, ray.WorkerID.from_random().binary())
            os._exit(0)
        os.wait()
        drawn.append(os.read(read, 1000))
        os.close(read), os.close(write)
    if drawn[0] == drawn[1]:
        sys.exit(
            "error: importing drew a random id from Ray; forked processes would give the same ids to their objects"
        )


def _receive_request(client: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """A request and its files, under numbers of this process; (None, []) if the client died before it was through."""
    head, files, _, _ = socket.recv_fds(client, warm_client.LENGTH, warm_client.MAX_FILES)
    length = int.from_bytes(head, "little")
    body = client.recv(length, socket.MSG_WAITALL) if len(head) == warm_client.LENGTH else b""
    if not body or len(body) < length:
        for fd in files:
            os.close(fd)
        return None, []
    return json.loads(body), files


def _answer(client: socket.socket, number: int) -> None:
    try:
        client.sendall(f"{number:{warm_client.NUMBER}d}".encode())
    except OSError:
        pass  # it died: "client gone" says so, too


def _become(request: dict[str, Any], files: list[int], zygote_pid: int) -> None:
    """In a new child: take over the client's files, environment and the rest of a process's state."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the zygote
    if os.getppid() != zygote_pid:
        os._exit(1)
    os.setpgrp()
    wanted = request["files"]
    above = max([2, *wanted, *files]) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in files]
    os.closerange(0, above)
    for source, target in zip(moved, wanted, strict=True):
        os.dup2(source, target)
    os.closerange(above, os.sysconf("SC_OPEN_MAX"))

    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.nice(request["nice"] - os.nice(0))
    if "ray" in sys.modules:  # its settings (RAY_AUTH_MODE among them) come from the environment, at import
        sys.modules["ray._raylet"].Config.initialize("")
    multiprocessing.current_process().authkey = os.urandom(32)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # `random` does it by itself at a fork
    if "torch" in sys.modules:
        sys.modules["torch"].seed()
        if os.environ.get("OMP_NUM_THREADS"):
            sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))
    atexit.register(gc.unfreeze)  # some libraries complain of what the last collection leaves


def run_as_main(arguments: list[str]) -> None:
    """As `python *arguments`, a file or `-c CODE`, in a new `__main__`."""
    main = ModuleType("__main__")
    if arguments[0] == "-c":
        source, name, sys.argv, sys.path[0] = arguments[1], "<string>", ["-c", *arguments[2:]], ""
    else:
        source, name, sys.argv = Path(arguments[0]).read_text(), arguments[0], arguments
        main.__file__, sys.path[0] = name, str(Path(name).resolve().parent)
    sys.modules["__main__"] = main
    exec(compile(source, name, "exec"), main.__dict__)


if __name__ == "__main__":
    run_as_main(zygote(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
