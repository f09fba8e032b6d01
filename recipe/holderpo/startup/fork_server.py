"""One process that imports the libraries, and from which the processes of a run are forked.

A run has a dozen processes (Ray's workers, vLLM's engine), each of which would import the same libraries for ten to twenty
seconds, where a fork takes a tenth of one. Ray reads its settings, its node's process number and its job's id from the
environment when it is imported, and keeps them. So what needs Ray is imported in a process of its own for each job
(`JobServer`), when its first worker is asked for, in that worker's environment; a server serves one node.

`python -m recipe.holderpo.startup.fork_server FOLDER` listens on FOLDER/socket until its standard input ends; what it has
forked spawns processes by FOLDER/python. Workers live on when it ends: Ray ends them itself.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import setproctitle
import torch
import wrapt
from tqdm.std import tqdm

from recipe.holderpo.startup.server import INTERPRETER
from recipe.holderpo.training import cpu_vllm

WITHOUT_RAY = (
    "pandas",
    "transformers",
    "tensordict",
    "peft",
    "datasets",
    "vllm.config",
    "vllm.entrypoints.openai.api_server",
)
WITH_RAY = (
    "vllm.v1.engine.async_llm",
    "vllm.v1.worker.cpu_worker",
    "recipe.holderpo.training.trainer",
    "recipe.holderpo.training.worker",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "verl.experimental.reward_loop",
)
NODE, JOB = "RAY_RAYLET_PID", "RAY_JOB_ID"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ABOVE = 512
"""Numbers of file descriptors that a process which asks does not have."""


@dataclass
class Request:
    """What Python was asked to run."""

    arguments: list[str]
    wait: bool
    """Whether the one who asks waits for the end."""
    environment: dict[str, str]
    folder: str
    nice: int
    oom_score_adj: str
    fds: list[int]
    """Numbers of the file descriptors that it is to find open."""
    received: list[int]
    """The same descriptors in this process."""

    def close(self) -> None:
        for fd in self.received:
            os.close(fd)


def import_all(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def take_class_ids_from_the_system(actor: Any) -> None:
    """So that Ray's C++ generator of random ids draws nothing before the forks.

    Its state cannot be set from outside; it would be the same in every forked process, and so would the ids. Two workers that
    begin at the same moment would put the object with which each tries the store (Ray's WarmupStore) under one id: one of
    them dies, and Ray starts it again ten minutes later.

    At an import Ray draws the id of a class that `@ray.remote` is written above (`actor` is ray.actor, of Ray 2.60).
    Unnecessary once Ray seeds its generator anew in a forked process. Raises RuntimeError if this Ray has them elsewhere;
    tests/startup compares the ids of forked processes.
    """
    given = getattr(actor, "ActorClassID", None)
    if given is None:
        raise RuntimeError("this Ray has no ray.actor.ActorClassID; review take_class_ids_from_the_system")
    actor.ActorClassID = SimpleNamespace(from_random=lambda: given(os.urandom(given.size())))


def receive(connection: socket.socket) -> list[int] | None:
    """File descriptors, that of a command first; None: the other side has gone."""
    try:
        message, received, *_ = socket.recv_fds(connection, 16, 253)
    except ConnectionError:
        return None
    return received if message else None


def read_request(received: list[int]) -> Request:
    file, *others = received
    return Request(**json.loads(os.pread(file, os.fstat(file).st_size, 0)), received=others)


class Server:
    """Forks on request; for one who waits, passes signals on to what it has forked, and tells how that ended."""

    def __init__(self) -> None:
        self.pids: dict[socket.socket, int] = {}
        self.events = selectors.DefaultSelector()
        self.events.register(sys.stdin, selectors.EVENT_READ)

    def serve(self) -> Request | None:
        """Returns in each forked process, with what it is to run; and with None in the server, when standard input ends."""
        while True:
            for key, _ in self.events.select():
                if key.data is None:
                    return None
                if (request := key.data()) is not None:
                    return request

    def wait_for(self, connection: socket.socket) -> None:
        self.events.register(connection, selectors.EVENT_READ, lambda: self.hear(connection))

    def hear(self, connection: socket.socket) -> Request | None:
        """A command, and later on signals, or that the other side has gone. The request in the process forked for it."""
        if connection.fileno() < 0:  # closed since the events were asked for
            return None
        if connection in self.pids:
            signals = b""
            with contextlib.suppress(ConnectionError):  # gone, with an answer unread
                signals = connection.recv(16)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pids[connection], int(signals or signal.SIGKILL))
            if not signals:
                self.forget(connection)
            return None
        received = receive(connection)
        if received is None:
            self.forget(connection)
            return None
        return self.answer(connection, received)

    def answer(self, connection: socket.socket, received: list[int]) -> Request | None:
        """Fork. The request in the forked process."""
        request = read_request(received)
        os.close(received[0])
        pid = os.fork()
        if not pid:
            self.leave()
            return request
        request.close()
        with contextlib.suppress(ConnectionError):  # gone meanwhile; what waits no longer is heard of next
            connection.send(b"forked")
        if request.wait:
            self.pids[connection] = pid
        else:
            self.forget(connection)
        end = os.pidfd_open(pid)
        self.events.register(end, selectors.EVENT_READ, lambda: self.reap(end, connection, pid))
        return None

    def reap(self, end: int, connection: socket.socket, pid: int) -> None:
        self.events.unregister(end)
        os.close(end)
        _, status = os.waitpid(pid, 0)
        if connection in self.pids:
            with contextlib.suppress(ConnectionError):  # it has gone at the same moment
                connection.send(str(os.waitstatus_to_exitcode(status)).encode())
            self.forget(connection)

    def forget(self, connection: socket.socket) -> None:
        self.pids.pop(connection, None)
        self.events.unregister(connection)
        connection.close()

    def leave(self) -> None:
        """In a forked process: close what is the server's."""
        for key in list(self.events.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            elif key.fileobj is not sys.stdin:  # a number; standard input is replaced
                os.close(key.fd)
        self.events.close()


class NodeServer(Server):
    """Hears of what is to be forked on a node, and hands it on to its job's server."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__()
        self.node: str | None = None
        self.jobs: dict[str, socket.socket] = {}
        self.events.register(listener, selectors.EVENT_READ, lambda: self.accept(listener))

    def accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        self.wait_for(connection)

    def answer(self, connection: socket.socket, received: list[int]) -> Request | None:
        environment = read_request(received).environment
        node, job = environment.get(NODE), environment.get(JOB, "")
        self.node = self.node or node
        request = None
        if node is not None and node == self.node:
            if job not in self.jobs:
                request = self.start_job(job, environment, received)
            if request is None:
                with contextlib.suppress(OSError):  # that job's server is gone
                    socket.send_fds(self.jobs[job], [b"fork"], [connection.fileno(), *received])
        if request is None:
            for number in received:
                os.close(number)
            self.forget(connection)
        return request

    def start_job(self, job: str, environment: Mapping[str, str], received: list[int]) -> Request | None:
        """Start the job's server. None here; in each process that it forks, what that is to run."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid:
            there.close()
            end = os.pidfd_open(pid)
            self.events.register(end, selectors.EVENT_READ, lambda: self.reap(end, here, pid))
            self.jobs[job] = here
            return None
        here.close()
        self.leave()
        for other in self.jobs.values():
            other.close()
        for number in received:
            os.close(number)
        request = JobServer(there, environment).serve()
        if request is None:
            os._exit(0)
        return request


class JobServer(Server):
    """Imports what needs Ray in the environment of a job's first worker, and forks the job's processes."""

    def __init__(self, node_server: socket.socket, environment: Mapping[str, str]) -> None:
        super().__init__()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        set_environment(environment)
        import_all(WITH_RAY)
        if (ray := sys.modules.get("ray._raylet")) is not None:
            # There is room for one copy of setproctitle's code, and Ray has its own; vLLM uses the package's.
            setproctitle.setproctitle = ray.setproctitle
            setproctitle.setproctitle("holderpo: fork server")
        gc.freeze()  # else a forked process copies what it only looks at
        self.events.register(node_server, selectors.EVENT_READ, lambda: self.take(node_server))

    def take(self, node_server: socket.socket) -> Request | None:
        """A connection, with the command that it asked for."""
        received = receive(node_server)
        if received is None:  # the node's server is gone
            os._exit(0)
        connection = socket.socket(fileno=received[0])
        self.wait_for(connection)
        return self.answer(connection, received[1:])


def become(request: Request, interpreter: str) -> None:
    """Make this process what a new Python would be there: what it inherits, its random numbers, its threads."""
    os.setsid()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, ABOVE) for fd in request.received]
    request.close()
    for fd, number in zip(high, request.fds, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request.folder)
    os.setpriority(os.PRIO_PROCESS, 0, request.nice)
    with contextlib.suppress(PermissionError):  # a lower one than the server's needs a privilege
        Path("/proc/self/oom_score_adj").write_text(request.oom_score_adj)
    set_environment(request.environment)
    tempfile.tempdir = None
    if request.wait:  # the one who waits takes the server's end for this process's
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    np.random.seed()  # Python's own seeds itself anew in a forked process
    torch.default_generator.seed()
    if threads := request.environment.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    multiprocessing.set_executable(interpreter)
    # tqdm's own is shared with other processes, and in a spawned one a semaphore with a name, which stays in /dev/shm when
    # its process is killed, as Ray does at the end of a run.
    tqdm.set_lock(threading.RLock())


def set_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path in reversed(environment.get("PYTHONPATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.insert(1, path)


def run(arguments: Sequence[str]) -> None:
    """As Python does with these arguments, options left out."""
    if "-c" in arguments:
        code, *rest = arguments[arguments.index("-c") + 1 :]
        sys.argv, sys.path[0] = ["-c", *rest], ""
        exec(code, {"__name__": "__main__"})
    else:
        script, *_ = sys.argv = list(arguments)
        sys.path[0] = str(Path(script).parent)
        runpy.run_path(script, run_name="__main__")


def main(folder: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        python = Path(folder, "python")
        python.write_text(f'#!/bin/sh\nexec {INTERPRETER} "$@"\n')
        python.chmod(0o700)
        listener.bind(f"{folder}/not_yet")
        listener.listen(64)
        os.rename(f"{folder}/not_yet", f"{folder}/socket")  # where it is there, it hears
        gc.disable()  # its passes over what is imported take a seventh of the time, and free nothing
        if os.environ.get("VERL_PLATFORM") == "cpu":
            cpu_vllm.install()
        wrapt.when_imported("ray.actor")(take_class_ids_from_the_system)
        import_all(WITHOUT_RAY)
        request = NodeServer(listener).serve()
    if request is not None:
        gc.enable()
        become(request, str(python))
        run(request.arguments)


if __name__ == "__main__":
    main(sys.argv[1])
