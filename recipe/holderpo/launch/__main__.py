"""Start a run on one node or on many: `python -m recipe.holderpo.launch [Hydra overrides]`.

One node: as `python -m recipe.holderpo.main`. Several: the same command on each, with NNODES, NODE_RANK and HEAD_ADDR set
(or under Slurm). Rank 0 starts a Ray cluster with token authentication, waits for the other nodes and their GPUs, runs the
driver, and takes the cluster down; the others join, and end when it does. docs/multi-node.md has the details.
With rehearse=true, what a cluster would run is tried on this machine's CPU: docs/rehearsal.md.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from omegaconf import DictConfig

from recipe.holderpo.config.compose import compose_config, set_environment
from recipe.holderpo.config.errors import ConfigError, print_error
from recipe.holderpo.config.help import help_text, wants_help
from recipe.holderpo.fault_tolerance.command import COMMAND_VARIABLE
from recipe.holderpo.fault_tolerance.console import console_that_holds_nothing
from recipe.holderpo.fault_tolerance.run_files import check_can_write, temporary_folder
from recipe.holderpo.fault_tolerance.signals import (
    ExitStatus,
    exit_on_sigterm,
    interrupt_on_sigint,
    report_sigterm,
)
from recipe.holderpo.launch import cluster, elastic
from recipe.holderpo.launch.driver import drive
from recipe.holderpo.launch.settings import Node, address_of, legacy_overrides, read_node
from recipe.holderpo.startup.server import ForkServer


class RunFailed(Exception):
    """The driver ended by an error; args: its exit status."""


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(help_text(__doc__))
        return 0
    os.environ.setdefault(COMMAND_VARIABLE, shlex.join(["python", "-m", "recipe.holderpo.launch", *arguments]))
    return exit_status(launch, arguments)


def exit_status(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command that starts drivers; its status, or that of the error which ended it."""
    exit_on_sigterm()  # before there is a driver nothing is to be saved: what was started here is ended
    interrupt_on_sigint()
    try:
        return command(arguments)
    except ConfigError as error:
        print_error(error)
        return ExitStatus.REFUSED
    except RunFailed as failed:
        return int(failed.args[0])
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED


def launch(arguments: Sequence[str]) -> int:
    """This node's part of the run; its exit status."""
    node = read_node(os.environ)
    legacy = legacy_overrides(os.environ)
    if legacy:
        print(f"from the environment: {' '.join(legacy)}", flush=True)
    overrides = [*legacy, *arguments]
    if rehearsal_is_asked(overrides):
        from recipe.holderpo.rehearsal.rehearse import rehearse  # takes seconds, for which a run need not wait

        return rehearse(overrides, node.nodes) if node.rank == 0 else 0
    if node.nodes == 1:
        return drive(overrides, dict(os.environ))[0]
    for given in overrides:
        key, _, value = given.lstrip("+").partition("=")
        if key == "trainer.nnodes" and value != str(node.nodes):
            raise ConfigError(f"{given}: NNODES is {node.nodes}; allowed is that, or no trainer.nnodes")
    overrides.append(f"trainer.nnodes={node.nodes}")
    return head(node, overrides) if node.rank == 0 else join(node, overrides)


def rehearsal_is_asked(overrides: Sequence[str]) -> bool:
    """Whether the overrides have `rehearse=true`; the last one counts."""
    values = [value for key, _, value in (given.lstrip("+").partition("=") for given in overrides) if key == "rehearse"]
    return bool(values) and values[-1].lower() == "true"


def head(node: Node, overrides: Sequence[str]) -> int:
    from recipe.holderpo.fault_tolerance.resume import undivided_shards  # takes seconds, with what it imports

    config = checked(overrides)
    if node.least < node.nodes and (why := undivided_shards(config)) is not None:
        raise ConfigError(
            f"MIN_NODES is {node.least}; allowed is NNODES={node.nodes}: the shards of {why} are not divided anew"
        )
    with ray_head(node, config) as (environment, attach):
        if node.least < node.nodes:
            with elastic.counting_nodes(f"{node.address}:{node.port}", node.nodes) as count:
                status = elastic.drive(node, count, overrides, attach, environment, Path(config.run_dir))
        else:
            status, _ = drive([*overrides, *attach], environment)
        if status not in [*ExitStatus]:
            raise RunFailed(status)  # keeps Ray's logs
        return status


@contextmanager
def ray_head(node: Node, config: DictConfig) -> Iterator[tuple[dict[str, str], list[str]]]:
    """A cluster with its head here, once all its nodes are there: a driver's environment, and overrides that attach it."""
    gpus, address = config.trainer.n_gpus_per_node, f"{node.address}:{node.port}"
    cluster.check_port(str(node.address), node.port)
    with ExitStack() as held:
        folder = held.enter_context(temporary_folder(Path(config.run_dir), node.rank))
        environment = dict(os.environ)
        server = held.enter_context(ForkServer()) if config.fork_workers else None
        cluster.ensure_token(environment, make=True)
        os.environ.update(environment)  # for `ray.init` here
        for start in range(1, cluster.STARTS + 1):
            started = held.enter_context(ExitStack())
            environment |= server.for_a_node() if server else {}
            ray_start = started.enter_context(cluster.ray_node(node, resources(config), environment, folder))
            try:
                cluster.wait_for_head(node, ray_start)
                if node.nodes > 1:
                    print(f"head {address} is up; waiting for {node.nodes - 1} more ...", flush=True)
                wait_for_all(node, gpus, ray_start)
                break
            except cluster.HeadEnded as error:
                started.close()
                if start == cluster.STARTS:
                    raise
                print(f"{error}; it is started again", flush=True)
        if node.nodes > 1:
            print(f"{node.nodes} nodes with {gpus} GPUs each are there", flush=True)
        # Ray takes no counts of resources where it attaches to a cluster.
        attach = [f"++ray_kwargs.ray_init.address={address}", "ray_kwargs.ray_init.num_cpus=null"]
        attach.append("++ray_kwargs.ray_init._node_ip_address=null")
        if config.trainer.device == "cpu":
            attach.append("ray_kwargs.ray_init.num_gpus=null")
        yield environment, attach


def join(node: Node, overrides: Sequence[str]) -> int:
    address_of("HEAD_ADDR", node.head)  # else it would be waited for
    if node.address is not None:
        cluster.check_port(node.address, 0)
    config = checked(overrides)
    with ExitStack() as held:
        folder = held.enter_context(temporary_folder(Path(config.run_dir), node.rank))
        environment = dict(os.environ)
        server = held.enter_context(ForkServer()) if config.fork_workers else None
        deadline = time.monotonic() + node.wait_s
        # On a shared disk the head makes the token file. One that is there, but not as it must be, is an error at once.
        while not cluster.has_token(environment) and time.monotonic() < deadline:
            time.sleep(cluster.POLL_SECONDS)
        cluster.ensure_token(environment, make=False)
        tries = 0
        while tries < cluster.STARTS:
            tries += 1
            cluster.wait_for_head(node)
            # Slurm signals all nodes at once. This one's part of the model is still to be saved; it ends with the head's
            # cluster.
            report_sigterm("SIGTERM: waiting for the head")
            environment |= server.for_a_node() if server else {}
            with cluster.ray_node(node, resources(config), environment, folder) as ray_start:
                print(f"joining {node.head}:{node.port} ...", flush=True)
                output, _ = ray_start.communicate()  # until the head takes the cluster down
            if "Ray runtime started" in output:
                if node.least == node.nodes or not cluster.head_answers(node):
                    return 0
                print("this node has lost the cluster, which is there: it joins again", flush=True)
                tries = 0
                continue
            reason = cluster.reason(output)
            if "token" in reason.lower():
                break
        raise ConfigError(f"this node could not join {node.head}:{node.port}: {reason}")


def checked(overrides: Sequence[str]) -> DictConfig:
    """The composed config, checked as the driver will check it: a wrong value must not cost a cluster's start."""
    from recipe.holderpo.config.checks import check_config  # takes seconds, which a driver alone need not wait for

    config = compose_config(overrides)
    set_environment(config)
    check_config(config)
    check_can_write("run_dir", Path(config.run_dir))
    return config


def resources(config: DictConfig) -> list[str]:
    """The resources of this node, as arguments of `ray start`; where there are real GPUs, Ray counts them itself."""
    if config.trainer.device != "cpu":
        return []
    return [f"--num-gpus={config.trainer.n_gpus_per_node}", f"--num-cpus={config.ray_kwargs.ray_init.num_cpus}"]


def wait_for_all(node: Node, gpus: int, ray_start: "subprocess.Popen[str]") -> None:
    import ray

    cluster.attach_to_head(node, ray_start)
    try:
        cluster.wait_for_nodes(node, gpus)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    with console_that_holds_nothing():
        sys.exit(main(sys.argv[1:]))
