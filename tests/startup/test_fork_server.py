"""What is forked is what a new Python would be there, and ends as one would."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from recipe.holderpo.startup.interpreter import ask
from recipe.holderpo.startup.server import ADDRESS, INTERPRETER, ForkServer

SPAWNED = "from multiprocessing.spawn import spawn_main; "
LOOK = """
import json, os, sys, random, tempfile, numpy, torch
from multiprocessing import spawn
print(json.dumps({
    "modules": ["colorsys" in sys.modules, "wave" in sys.modules], "argv": sys.argv, "path": sys.path[:2], "name": __name__,
    "environment": dict(os.environ), "folder": os.getcwd(), "nice": os.nice(0), "session": os.getsid(0) == os.getpid(),
    "oom": open("/proc/self/oom_score_adj").read().strip(), "stdin": sys.stdin.read(), "threads": torch.get_num_threads(),
    "random": [random.random(), numpy.random.random(), torch.rand(1).item()], "temporary": tempfile.gettempdir(),
    "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2),
    "python": os.fsdecode(spawn.get_executable()),
}), flush=True)
"""


@contextmanager
def small_server() -> Iterator[ForkServer]:
    """A server of two small modules that nothing else imports, quickly there."""
    with pytest.MonkeyPatch.context() as patch:
        start = (
            "import sys; from recipe.holderpo.startup import fork_server as f; "
            "f.WITHOUT_RAY, f.WITH_RAY = ('colorsys',), ('wave',); f.main(sys.argv[1])"
        )
        patch.setattr(ForkServer, "COMMAND", (sys.executable, "-c", start))
        with ForkServer() as started:
            wait_until(lambda: (started.folder / "socket").exists())
            yield started


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with small_server() as started:
        yield started


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(python: Path | str, *arguments: str, **keywords: object) -> "subprocess.CompletedProcess[str]":
    """Until all that it has started has closed its output: nobody waits for a forked worker itself."""
    command = [str(python), *arguments]
    return subprocess.run(command, text=True, capture_output=True, timeout=300, **keywords)  # type: ignore[call-overload,no-any-return]


def start(server: ForkServer, code: str) -> "subprocess.Popen[str]":
    """A process as multiprocessing spawns one, in the code's place."""
    command = [str(server.folder / "python"), "-c", SPAWNED + code]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env=os.environ | on_node(server))


def on_node(server: ForkServer, node: str = "1") -> dict[str, str]:
    return {"RAY_RAYLET_PID": node, ADDRESS: str(server.folder / "socket")}


def looked(script: Path, python: str, server: ForkServer) -> dict[str, object]:
    """What a worker sees that is started with a file open, nice and without much memory to lose."""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    environment = (
        os.environ | on_node(server) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent), "TMPDIR": "/var/tmp"}
    )
    command = f"echo 500 > /proc/self/oom_score_adj; exec nice -n 7 {python} {script} --worker-id=1 'a b'"
    with script.with_name("input").open("w+") as file:
        file.write("input")
        file.seek(0)
        printed = run("bash", "-c", command, env=environment, cwd=script.parent, stdin=file, pass_fds=[read])
    os.close(read)
    os.close(write)
    assert printed.stderr == ""
    seen: dict[str, object] = json.loads(printed.stdout)
    opened = seen["open"]
    assert isinstance(opened, list) and read in opened
    return seen


def test_a_worker_is_as_a_new_python_would_be(server: ForkServer, tmp_path: Path) -> None:
    script = tmp_path / "default_worker.py"
    script.write_text(LOOK)
    forked, new = looked(script, INTERPRETER, server), looked(script, sys.executable, server)
    assert forked.pop("modules") == [True, True] and new.pop("modules") == [False, False]
    assert forked.pop("python") == str(server.folder / "python") and new.pop("python") == sys.executable
    assert forked.pop("session") is True
    new.pop("session")
    first, second = forked.pop("random"), looked(script, INTERPRETER, server)["random"]
    assert isinstance(first, list) and isinstance(second, list)
    assert not {*first} & {*second}, "each forked process has random numbers of its own"
    new.pop("random")
    for seen in (forked, new):  # of the shell that started it
        environment = seen["environment"]
        assert isinstance(environment, dict)
        for name in ("_", "SHLVL"):
            environment.pop(name, None)
    assert forked == new
    assert forked["nice"] == 7 and forked["oom"] == "500" and forked["stdin"] == "input" and forked["threads"] == 1


def test_each_job_has_a_server_of_its_own(server: ForkServer, tmp_path: Path) -> None:
    """Ray would take a worker that was forked from another job's, which has ended, for a left-over and end it."""
    script = tmp_path / "default_worker.py"
    script.write_text("import os, sys; print(os.getppid(), os.environ['RAY_JOB_ID'], 'wave' in sys.modules)")
    seen = []
    for job in ("03000000", "04000000", "03000000"):
        environment = os.environ | on_node(server) | {"RAY_JOB_ID": job}
        done = run("bash", "-c", f"{INTERPRETER} {script} --worker-id=1", env=environment)
        seen.append(done.stdout.split())
    assert [(job, imported) for _, job, imported in seen] == [(j, "True") for j in ("03000000", "04000000", "03000000")]
    (first, *_), (other, *_), (again, *_) = seen
    assert first == again != other
    parents = [psutil.Process(int(pid)).ppid() for pid in (first, other)]
    assert parents == [server.process.pid] * 2


def test_rays_ids_differ_between_forked_processes(tmp_path: Path) -> None:
    """Of the real server with all that it imports, in the main thread and in another one."""
    script = tmp_path / "default_worker.py"
    script.write_text(
        "import ray, threading\n"
        "ids = [ray.ObjectRef.from_random().hex()]\n"
        "other = threading.Thread(target=lambda: ids.append(ray.ObjectRef.from_random().hex()))\n"
        "other.start(); other.join()\n"
        "print(*ids)\n"
    )
    with ForkServer() as started:
        wait_until(lambda: (started.folder / "socket").exists())
        environment = os.environ | on_node(started) | {"VERL_PLATFORM": "cpu"}
        command = f"{INTERPRETER} {script} --worker-id=1"
        printed = [run("bash", "-c", command, env=environment) for _ in range(3)]
    ids = [one for process in printed for one in process.stdout.split()]
    assert len(ids) == len({*ids}) == 6, [process.stderr for process in printed]


def test_a_spawned_process_ends_as_it_would_and_hears_signals(server: ForkServer) -> None:
    assert start(server, "import sys; sys.exit(7)").wait() == 7
    assert start(server, "raise ValueError").wait() == 1
    assert start(server, "import os; os.kill(os.getpid(), 11)").wait() == -signal.SIGSEGV
    assert start(server, "import os; os.kill(os.getpid(), 9)").wait() == -signal.SIGKILL
    wait = "import os, signal, time; print(os.getpid(), flush=True); "
    for number in (signal.SIGTERM, signal.SIGINT):
        code = f"signal.signal({int(number)}, lambda n, f: sys.exit(40 + n)); "
        process = start(server, "import sys; " + wait.replace("print", code + "print") + "time.sleep(600)")
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait() == 40 + number


def test_a_spawned_process_does_not_outlive_the_one_that_stands_for_it(server: ForkServer) -> None:
    process = start(server, "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    assert process.stdout is not None
    forked = psutil.Process(int(process.stdout.readline()))
    assert forked.pid != process.pid
    process.kill()
    process.wait()
    wait_until(lambda: not forked.is_running())


def test_nor_the_server_whose_end_would_be_taken_for_its_own() -> None:
    with small_server() as server:
        process = start(server, "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
        assert process.stdout is not None
        forked = psutil.Process(int(process.stdout.readline()))
        server.process.kill()
        assert process.wait() == -signal.SIGKILL
        wait_until(lambda: not forked.is_running())


@pytest.mark.parametrize("wait", [True, False])
def test_one_that_asks_and_goes_before_its_answer_costs_the_server_nothing(wait: bool) -> None:
    with small_server() as server:
        server.process.send_signal(signal.SIGSTOP)  # as it is while it imports what needs Ray
        with patched_environment(on_node(server)), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
            asking.connect(str(server.folder / "socket"))
            ask(asking, ["-c", SPAWNED + "import time; time.sleep(600)"], wait)
        server.process.send_signal(signal.SIGCONT)
        assert start(server, "import sys; sys.exit(7)").wait() == 7
        left = [process for job in psutil.Process(server.process.pid).children() for process in job.children()]
        for process in left:
            process.kill() if not wait else wait_until(lambda: not process.is_running())  # noqa: B023
        assert server.process.poll() is None


@contextmanager
def patched_environment(variables: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def test_multiprocessing_spawns_through_the_server(server: ForkServer, tmp_path: Path) -> None:
    script = tmp_path / "default_worker.py"
    script.write_text(
        "import multiprocessing, os, sys\n"
        "def double(queue, results):\n"
        "    results.put((queue.get() * 2, 'wave' in sys.modules))\n"
        "    sys.exit(5)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue, results = context.Queue(), context.Queue()\n"
        "    process = context.Process(target=double, args=(queue, results))\n"
        "    process.start()\n"
        "    queue.put(21)\n"
        "    print(results.get(timeout=300), process.join(), process.exitcode)\n"
    )
    got = run(server.folder / "python", str(script), env=os.environ | on_node(server))
    assert got.stdout == "(42, True) None 5\n", got.stderr


def test_a_progress_bar_leaves_no_semaphore_behind(server: ForkServer) -> None:
    """tqdm's own lock would be one with a name where processes are spawned, and stay when its process is killed."""
    code = (
        "import multiprocessing, os; multiprocessing.set_start_method('spawn'); "
        "import multiprocessing.synchronize as s, tqdm; names = []; init = s.SemLock.__init__; "
        "s.SemLock.__init__ = lambda self, *a, **k: (init(self, *a, **k), names.append(self._semlock.name))[0]; "
        "[*tqdm.tqdm(range(2))]; print(names)"
    )
    process = start(server, code)
    assert process.communicate()[0] == "[]\n" and process.returncode == 0


def test_other_nodes_other_commands_and_a_server_that_is_gone_get_a_new_python(
    server: ForkServer, tmp_path: Path
) -> None:
    script = tmp_path / "default_worker.py"
    script.write_text("import sys\nprint('wave' in sys.modules)\n")
    python, code = server.folder / "python", "import sys; print('wave' in sys.modules, sys.argv)"
    assert run(python, str(script), env=os.environ | on_node(server)).stdout == "True\n"
    other = run(python, str(script), env=os.environ | on_node(server, "2"))
    assert other.stdout == "False\n" and "forks nothing for this node" in other.stderr
    assert run(python, "-c", code, "x", env=os.environ | on_node(server)).stdout == "False ['-c', 'x']\n"
    alone = run(python, str(script))
    assert alone.stdout == "False\n" and alone.stderr == ""
    gone = run(python, str(script), env=os.environ | on_node(server) | {ADDRESS: f"{tmp_path}/socket"})
    assert gone.stdout == "False\n" and f"cannot fork from {tmp_path}/socket" in gone.stderr


def test_a_server_serves_one_node_and_ends_with_its_driver(tmp_path: Path) -> None:
    """The driver is killed, so that it cannot end anything itself."""
    code = (
        "import os, sys; from recipe.holderpo.startup.server import ADDRESS, INTERPRETER, ForkServer; "
        "ForkServer.COMMAND = (sys.executable, '-c', 'import sys; sys.stdin.read()'); "
        "server = ForkServer(); server.__enter__(); first = server.process.pid, server.folder; "
        "one = server.for_a_node(); assert (server.process.pid, server.folder) == first; "
        "assert server.for_a_node() != one and server.folder.exists() and not first[1].exists(); "
        "print(server.process.pid, flush=True); sys.stdin.read()"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None and driver.stdin is not None
    ended = psutil.Process(int(driver.stdout.readline()))
    driver.kill()
    driver.wait()
    wait_until(lambda: not ended.is_running())


def test_a_server_that_ended_by_itself_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ForkServer, "COMMAND", (sys.executable, "-c", "import no_such_module"))
    with ForkServer() as server:
        server.process.wait()
    said = capsys.readouterr().err
    assert said.startswith(
        "note: the process to fork from ended by itself (status 1: ModuleNotFoundError: No module named"
    )
    monkeypatch.setattr(ForkServer, "COMMAND", (sys.executable, "-c", "import sys; sys.stdin.read()"))
    with ForkServer():
        pass
    assert capsys.readouterr().err == "", "it was ended from here"
