"""One driver a run; temporary files in one private folder that goes, except after an error; no shared memory stays."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.run_files import (
    LONGEST_BASE,
    check_can_write,
    one_driver_per_run,
    temporary_folder,
)

HOLD = """
import sys, time
from pathlib import Path
from recipe.holderpo.fault_tolerance.run_files import one_driver_per_run
with one_driver_per_run("r", Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_driver_is_refused_until_the_first_is_gone_however_it_ended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        refused = pytest.raises(ConfigError, match=rf"run is 'r', which process {first.pid} on .* is training")
        with refused, one_driver_per_run("r", tmp_path):
            pass
        first.kill()
    with one_driver_per_run("r", tmp_path):
        pass


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the folder is made: as short as it must be."""
    inherited = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    monkeypatch.setattr(os, "environ", inherited | {"TMPDIR": "/var/tmp"})
    monkeypatch.setattr(tempfile, "tempdir", None)
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as name:
        os.environ["RAY_TMPDIR"] = name
        yield Path(name)


def test_it_is_private_and_everybodys_tmpdir_and_goes(base: Path, tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        assert folder.parent == base and folder.stat().st_mode & 0o777 == 0o700
        assert tempfile.gettempdir() == os.environ["TMPDIR"] == os.environ["RAY_TMPDIR"] == str(folder)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith("/var/tmp/"), "worth keeping"
        (folder / "socket").touch()
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("how", [SystemExit, KeyboardInterrupt])
def test_it_goes_when_the_run_is_ended_on_purpose(base: Path, tmp_path: Path, how: type[BaseException]) -> None:
    with pytest.raises(how), temporary_folder(tmp_path):
        raise how
    assert list(base.iterdir()) == []


def test_after_an_error_it_stays_until_the_same_run_is_started_again(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError), temporary_folder(tmp_path) as folder:
        raise RuntimeError  # before Ray has begun to log
    assert not folder.exists() and capsys.readouterr().err == ""
    os.environ["RAY_TMPDIR"] = str(base)
    with pytest.raises(RuntimeError), temporary_folder(tmp_path) as folder:
        (folder / "ray").mkdir()
        raise RuntimeError
    assert folder.exists() and f"Ray's logs: {folder}/ray/session_latest/logs" in capsys.readouterr().err
    left = folder.rename(folder.with_name(folder.name.rsplit("-", 1)[0] + "-1"))  # of another process
    os.environ["RAY_TMPDIR"] = str(base)
    with temporary_folder(tmp_path / "another"):
        assert left.exists()
    os.environ["RAY_TMPDIR"] = str(base)
    with temporary_folder(tmp_path):
        assert not left.exists()


def test_a_base_that_is_too_long_for_sockets_is_refused(base: Path, tmp_path: Path) -> None:
    os.environ["RAY_TMPDIR"] = "/" + "x" * LONGEST_BASE
    refused = pytest.raises(ConfigError, match=r"RAY_TMPDIR is '/x+'; allowed is an absolute path of at most")
    with refused, temporary_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/dev/null", "in which no folder can be made .Not a directory"),
        ("/none", "in which .* .No such file"),
        ("t", "abs"),
    ],
)
def test_a_base_in_which_nothing_can_be_made_is_named(name: str, said: str, base: Path, tmp_path: Path) -> None:
    os.environ["RAY_TMPDIR"] = name
    with pytest.raises(ConfigError, match=f"RAY_TMPDIR is '{name}'.*{said}"), temporary_folder(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    check_can_write("run_dir", tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for wrong, why in ((tmp_path / "file" / "r", "Not a directory"), (tmp_path / ("x" * 300), "File name too long")):
        with pytest.raises(ConfigError, match=f"run_dir is '{wrong}', which cannot be written .{why}: "):
            check_can_write("run_dir", wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


SHARE = """
import sys, time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(sys.argv[1], create=True, size=1000)
resource_tracker.unregister(memory._name, "shared_memory")  # as if it had been killed with its process
print("shared", flush=True)
time.sleep(60)
"""


RING = """
import sys
from multiprocessing import shared_memory
import recipe.holderpo.plugin
ring = shared_memory.SharedMemory(create=True, size=64)
print(ring.name, flush=True)
sys.stdin.read()
"""


def test_shared_memory_that_python_has_named_goes_with_the_run_that_made_it(base: Path, tmp_path: Path) -> None:
    def ring() -> "subprocess.Popen[str]":
        return subprocess.Popen([sys.executable, "-c", RING], stdin=-1, stdout=-1, text=True, env=dict(os.environ))

    def name_of(process: "subprocess.Popen[str]") -> Path:
        assert process.stdout is not None
        return Path("/dev/shm") / process.stdout.readline().strip()

    before = dict(os.environ)
    with temporary_folder(tmp_path / "other"), ring() as others:
        kept = name_of(others)
        os.environ.update(before)
        with temporary_folder(tmp_path), ring() as killed:
            left = name_of(killed)
            assert left.exists() and kept.exists() and left.name[:7] != kept.name[:7]
            # with the tracker that would unlink it, and as Ray does
            for process in [*psutil.Process(killed.pid).children(recursive=True), killed]:
                process.kill()
            killed.wait()
            assert left.exists()
        assert not left.exists() and kept.exists()
        others.communicate("")
    os.environ["TMPDIR"] = "/tmp"
    with ring() as alone:
        assert name_of(alone).name.startswith("psm_"), "what belongs to no run has Python's own names"
        alone.communicate("")


def test_lost_weights_go_and_another_runs_stay(base: Path, tmp_path: Path) -> None:
    names = [f"verl_weights_test{os.getpid()}{which}" for which in ("ours", "lost", "anothers")]
    ours, lost, anothers = (Path("/dev/shm") / name for name in names)

    def share(name: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", SHARE, name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        assert process.stdout is not None and process.stdout.readline() == "shared\n"
        return process

    before = dict(os.environ)
    with temporary_folder(tmp_path) as folder:
        name = folder.name.rpartition("-")[0]
    os.environ.update(before)
    (base / f"{name}-1").mkdir()  # of a driver that was killed
    with share(names[1]) as killed:
        killed.kill()
    with share(names[2]) as another:
        with temporary_folder(tmp_path):
            assert not lost.exists(), "what the driver before has left goes at the start"
            own = share(names[0])
            assert ours.exists() and anothers.exists()
        assert not ours.exists() and anothers.exists()
        another.kill()
    anothers.unlink()
    with own:
        own.kill()
