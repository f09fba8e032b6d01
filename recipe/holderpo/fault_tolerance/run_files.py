"""What a run keeps beside its results while it trains: one lock, one folder for Ray's session, sockets and whatever libraries
put into TMPDIR, and shared memory. What a killed driver has left is deleted when the run is started again.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.shared_memory import remove_shared_memory

# A socket's path may have 107 characters, of which Ray and the folder's name take 92.
LONGEST_BASE = 15


def check_can_write(key: str, folder: Path) -> Path:
    """Look whether a folder can be written, or made, without making it. Returns it, or its nearest parent that is there.

    Raises:
        ConfigError: it cannot; key: whose value the folder is.
    """
    there = folder
    try:
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
        return there
    except OSError as error:
        raise ConfigError(
            f"{key} is {str(folder)!r}, which cannot be written ({error.strerror}: {there}); allowed is a folder that can"
        ) from None


def read_config(file: Path) -> DictConfig:
    """A config.yaml that a run or an evaluation has saved.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        config = OmegaConf.load(file)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:  # ValueError: what is no UTF-8
        raise ConfigError(f"{file} cannot be read: {type(error).__name__}: {str(error)[:200]}") from None
    if not isinstance(config, DictConfig) or not config:
        raise ConfigError(f"{file} cannot be read: it has no keys")
    return config


@contextmanager
def one_driver_per_run(run: str, run_dir: Path) -> Iterator[None]:
    """Hold the run's lock, which is released when its process ends, however it ends.

    Raises:
        ConfigError: another process has it; two that write the same checkpoints would ruin them.
    """
    with (run_dir / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConfigError(
                f"run is {run!r}, which {lock.read().strip()} is training; allowed is another name: run=..."
            ) from None
        except OSError as error:
            print(f"{run_dir} cannot be locked ({error.strerror}): do not start this run twice", file=sys.stderr)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def temporary_base() -> Path:
    """Where `temporary_folder` makes its folder: RAY_TMPDIR, else /tmp.

    Raises:
        ConfigError: it is no path, or too long a one.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or "/tmp")
    if len(str(base)) > LONGEST_BASE or not base.is_absolute():
        raise ConfigError(
            f"RAY_TMPDIR is {str(base)!r}; allowed is an absolute path of at most {LONGEST_BASE} characters"
        )
    return base


@contextmanager
def temporary_folder(run_dir: Path, node: int = 0) -> Iterator[Path]:
    """A folder that only this user can read; from here on the TMPDIR and RAY_TMPDIR of this process and all that it starts.

    It is deleted at the end, but kept after an error, whose reason may be in Ray's logs; the run's next start deletes it.
    Its name is short, since the path of a socket must not be longer than 107 bytes: it is in RAY_TMPDIR, else in /tmp.
    """
    base, name = temporary_base(), hashlib.sha256(f"{run_dir} {node}".encode()).hexdigest()[:6]
    if run_dir.exists():  # and locked, so it has no other driver
        for left in base.glob(f"holderpo-{name}-*"):
            shutil.rmtree(left, ignore_errors=True)
            remove_shared_memory(left)
    folder = base / f"holderpo-{name}-{os.getpid()}"
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"RAY_TMPDIR is {str(base)!r}, in which no folder can be made ({error.strerror}); allowed is one in which it can"
        ) from None
    # torch.compile's results are worth keeping; its precompiled headers would be made in TMPDIR, at each start anew.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}")
    os.environ.setdefault("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")
    os.environ |= {"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
    tempfile.tempdir = None  # to be read from the environment again
    keep = False
    try:
        yield folder
    except Exception:
        if (folder / "ray").exists():
            print(f"Ray's logs: {folder}/ray/session_latest/logs", file=sys.stderr, flush=True)
            keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        remove_shared_memory(folder)
