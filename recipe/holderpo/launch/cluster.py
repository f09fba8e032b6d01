"""A Ray cluster for one run: started with token authentication, waited for, and taken down again, ours and no other."""

import errno
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.attach import attach
from recipe.holderpo.launch.settings import Node

POLL_SECONDS = 0.5
STARTS = 3
"""How often Ray is started on a node: `ray start` ends by itself if its raylet is not there within 30 s, which is fixed in
Ray (2.60) and too short for a machine that is busy with something else."""
STOP_SECONDS = 15.0


class HeadEnded(ConfigError):
    """The head's `ray start` has ended by itself."""


def token_file(environment: dict[str, str]) -> Path:
    """The file with Ray's token: RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token. Nodes must share it, or hold copies."""
    return Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()


def has_token(environment: dict[str, str]) -> bool:
    """Whether there is a token: RAY_AUTH_TOKEN itself, or its file."""
    return bool(environment.get("RAY_AUTH_TOKEN")) or token_file(environment).exists()


def ensure_token(environment: dict[str, str], make: bool) -> None:
    """Turn token authentication on for everything started from here, with a token file that only its owner reads.

    Raises ConfigError where there is no token and `make` is false (a node that joins), or others can read the file."""
    environment["RAY_AUTH_MODE"] = "token"
    if environment.get("RAY_AUTH_TOKEN"):
        return
    path = token_file(environment)
    if not path.exists():
        if not make:
            raise ConfigError(
                f"RAY_AUTH_TOKEN_PATH names {path}, which does not exist; allowed is a copy of the head's token file "
                "(the head makes it when it starts)"
            )
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        except OSError as error:
            raise ConfigError(f"RAY_AUTH_TOKEN_PATH names {path}, which cannot be made: {error.strerror}") from None
    if not path.is_file():
        raise ConfigError(f"RAY_AUTH_TOKEN_PATH names {path}; allowed is a file with a token")
    if path.stat().st_mode & 0o077:
        raise ConfigError(
            f"{path} has mode {path.stat().st_mode & 0o777:o}; allowed is 600: it is the key to the cluster"
        )
    environment["RAY_AUTH_TOKEN_PATH"] = str(path)


def port_error(address: str, port: int) -> str | None:
    """Why nothing can listen on a port ("": of any address); None if something can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.strerror
    return None


def check_port(address: str, port: int) -> None:
    """Raises ConfigError if nothing can listen on this node's port (0: on any): it is taken, or the address is another's."""
    error = port_error(address, port)
    if error == os.strerror(errno.EADDRNOTAVAIL):
        raise ConfigError(
            f"HEAD_ADDR or NODE_ADDR is {address}, which is no address of this machine; allowed on the node of rank 0 is its "
            "own, and NODE_ADDR is this node's"
        )
    if error is not None:
        raise ConfigError(f"RAY_PORT is {port}; it cannot be used on {address}: {error}")


@contextmanager
def ray_node(
    node: Node, resources: Sequence[str], environment: dict[str, str], folder: Path
) -> Iterator[subprocess.Popen[str]]:
    """`ray start --block` of this node; on leaving the block, it and every process below it is ended.

    resources: further arguments of `ray start`, such as --num-gpus=8. folder: for Ray's session, and for its note of this
    machine's current cluster, which a later `ray.init` elsewhere must not find."""
    where = (
        ["--head", f"--node-ip-address={node.address}", f"--port={node.port}", "--include-dashboard=false"]
        if node.rank == 0
        else [f"--address={node.head}:{node.port}", *([f"--node-ip-address={node.address}"] if node.address else [])]
    )
    ray = Path(sys.executable).with_name("ray")
    process = subprocess.Popen(
        [str(ray), "start", "--block", "--disable-usage-stats", f"--temp-dir={folder}/ray", *where, *resources],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        stop(process)


def stop(process: "subprocess.Popen[str]") -> None:
    """End a process and all below it: by SIGTERM, and after STOP_SECONDS by SIGKILL."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=STOP_SECONDS)
    process.wait()


def reason(output: str) -> str:
    """The line of `ray start`'s output that says most about why it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no word"]
    return next((line for line in reversed(lines) if "token" in line.lower()), lines[-1])


def wait_for_head(node: Node, ray_start: "subprocess.Popen[str] | None" = None) -> None:
    """Until the head's port answers. Raises ConfigError after `node.wait_s`, HeadEnded when the `ray start` that should
    open it has ended."""
    deadline = time.monotonic() + node.wait_s
    while True:
        if ray_start is not None:
            check_running(node, ray_start)
        try:
            with socket.create_connection((node.head, node.port), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"HEAD_ADDR is {node.head}: nothing answers on port {node.port} after {node.wait_s:.0f} s ({error})"
                ) from None
            time.sleep(POLL_SECONDS)


def head_answers(node: Node) -> bool:
    """Whether the cluster is still there, once a head that takes it down has had the time for it."""
    time.sleep(2 * STOP_SECONDS)
    try:
        with socket.create_connection((node.head, node.port), timeout=5):
            return True
    except OSError:
        return False


def check_running(node: Node, ray_start: "subprocess.Popen[str]") -> None:
    """Raises HeadEnded if the head's `ray start` has ended, as it does when one of Ray's processes crashes at its start."""
    if ray_start.poll() is not None:
        output, _ = ray_start.communicate()
        raise HeadEnded(f"Ray's head did not start on {node.address}:{node.port}: {reason(output)}")


def attach_to_head(node: Node, ray_start: "subprocess.Popen[str]") -> None:
    """Attach to the cluster of `ray_start`, whose port answers some time before Ray knows its first node.

    Raises ConfigError after `node.wait_s`, HeadEnded when `ray_start` has ended."""
    import ray
    from ray.exceptions import RayError

    deadline = time.monotonic() + node.wait_s
    while True:
        try:
            return attach(f"{node.address}:{node.port}")
        except (ConnectionError, RuntimeError, RayError) as error:  # which of them depends on how far Ray is
            ray.shutdown()
            check_running(node, ray_start)
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"Ray's head on {node.address}:{node.port} cannot be used after {node.wait_s:.0f} s: "
                    f"{' '.join(str(error).split())}"
                ) from None
            time.sleep(POLL_SECONDS)


def wait_for_nodes(node: Node, gpus: int) -> None:
    """Until NNODES nodes with `gpus` GPUs each are there, or after `node.wait_s` at least MIN_NODES. To be called where
    `ray.init` has attached to the cluster.

    Raises ConfigError after `node.wait_s` with what is missing, and at once for a node with too few GPUs."""
    import ray

    deadline = time.monotonic() + node.wait_s
    while True:
        alive = {n["NodeManagerAddress"]: int(n["Resources"].get("GPU", 0)) for n in ray.nodes() if n["Alive"]}
        for address, count in alive.items():
            if count < gpus:
                raise ConfigError(
                    f"trainer.n_gpus_per_node is {gpus}; node {address} has {count}: every node must have as many"
                )
        if len(alive) >= node.nodes:
            return
        if time.monotonic() > deadline:
            if len(alive) >= node.least:
                return
            raise ConfigError(
                f"NNODES is {node.nodes}; after {node.wait_s:.0f} s {len(alive)} joined ({', '.join(sorted(alive))}), "
                f"{node.nodes - len(alive)} did not: are they started, with this head's address and its token?"
            )
        time.sleep(POLL_SECONDS)
