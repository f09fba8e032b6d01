"""Checks everything that a run needs: `python -m recipe.holderpo.doctor [--gpu] [Hydra overrides of the run]`.

One line per check, and for each that fails how to fix it. Exit status 1 if one fails. Starts no Ray and loads no model.
With --gpu it does, for some minutes: the loss, packed gradients and two steps of the real stack on this machine's GPU (or,
with hardware=cpu, on its CPU), with every figure in a report, outputs/gpu-<time>/report.json.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from packaging.requirements import Requirement

from recipe.holderpo.config.checks import check_cluster, check_config, check_with_verl
from recipe.holderpo.config.compose import compose_config, set_environment
from recipe.holderpo.config.cross_checks import data_files
from recipe.holderpo.config.errors import ConfigError, print_error
from recipe.holderpo.config.help import help_text, wants_help
from recipe.holderpo.config.inputs import check_inputs
from recipe.holderpo.fault_tolerance.resume import check_resume, find_checkpoint
from recipe.holderpo.fault_tolerance.run_files import check_can_write, temporary_base
from recipe.holderpo.fault_tolerance.signals import ExitStatus
from recipe.holderpo.gpu_check import check_gpu
from recipe.holderpo.launch.cluster import port_error
from recipe.holderpo.launch.settings import Node, legacy_overrides, read_node
from recipe.holderpo.plan import MODELS, checkpoint_gb, read_architecture
from recipe.holderpo.report.text_table import text_table

MIN_DISK_GB, MIN_SHM_GB, MIN_CACHE_GB, MIN_TEMPORARY_GB = 20, 1, 1, 5
DISK_FOR_LOGS_GB = 2
MIN_DRIVER = 580  # of CUDA 13

ONE_NODE = Node()


@dataclass(frozen=True)
class Finding:
    """One check: what was checked, what was found, and, if that is not enough, how to fix it."""

    name: str
    found: str
    fix: str | None = None


def check_python() -> Finding:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 12)
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", found, None if fits else "Python 3.11 or 3.12 is needed")


def check_versions(extra: str) -> list[Finding]:
    """The installed packages against the pins of an extra of this project (setup.py), `cpu` or `gpu`."""
    findings = []
    for text in importlib.metadata.requires("holderpo") or []:
        requirement = Requirement(text)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(
                Finding(requirement.name, "not installed", f'pip install "{str(requirement).split(";")[0].strip()}"')
            )
            continue
        fits = requirement.specifier.contains(version.split("+")[0], prereleases=True)
        wanted = f'pip install "{requirement.name}{requirement.specifier}"'
        findings.append(
            Finding(requirement.name, version, None if fits else f"pinned is {requirement.specifier}: {wanted}")
        )
    return findings


def check_plugin() -> Finding:
    """The entry point through which verl loads the loss."""
    points = importlib.metadata.entry_points(group="verl.plugins")
    names = [point.name for point in points if point.value.startswith("recipe.holderpo")]
    return Finding("verl plugin", ", ".join(names) or "not registered", None if names else "pip install -e .")


def check_gpus(config: DictConfig) -> Finding:
    wanted = config.trainer.n_gpus_per_node
    if config.trainer.device == "cpu":
        return Finding("GPUs", "not needed: hardware=cpu")
    import torch

    there = torch.cuda.device_count()
    memory = [torch.cuda.get_device_properties(i).total_memory / 2**30 for i in range(there)]
    found = f"{there}" + (f" of {min(memory):.0f} GiB" if memory else "")
    fix = f"trainer.n_gpus_per_node is {wanted}: fewer, or CUDA_VISIBLE_DEVICES and the driver (nvidia-smi)"
    return Finding("GPUs", found, None if there >= wanted else fix)


def check_driver(config: DictConfig, ask: Callable[[], str] | None = None) -> Finding:
    """NVIDIA's driver, which has to know the CUDA that the packages were built for."""
    if config.trainer.device != "cuda":
        return Finding("driver", f"not needed: trainer.device={config.trainer.device}")
    try:
        version = (ask or driver_version)()
        fits = int(version.split(".")[0]) >= MIN_DRIVER
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        return Finding("driver", f"nvidia-smi does not say: {error}", "install NVIDIA's driver")
    return Finding("driver", version, None if fits else f"CUDA 13 wants {MIN_DRIVER} or later")


def driver_version() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().split("\n")[0]


def disk_needed_gb(config: DictConfig) -> float:
    """The checkpoints that are kept and the one in the making, where the model's size is known before it is loaded."""
    folder = Path(str(config.actor_rollout_ref.model.path)).expanduser()
    try:
        known = read_architecture(folder) if (folder / "config.json").exists() else None
    except ConfigError:
        known = None
    model = known or MODELS.get(str(config.model_name).replace("-", "_"))
    return MIN_DISK_GB if model is None else (config.keep_checkpoints + 1) * checkpoint_gb(model) + DISK_FOR_LOGS_GB


def check_collectives(config: DictConfig) -> Finding:
    """The library that reduces gradients: NCCL between GPUs, gloo between CPUs."""
    import torch.distributed

    if config.trainer.device == "cpu":
        there = torch.distributed.is_gloo_available()
        return Finding("gloo", "available" if there else "missing", None if there else "install torch's own build")
    there = torch.distributed.is_nccl_available()
    return Finding("NCCL", "available" if there else "missing", None if there else "install torch with CUDA")


def check_port(node: Node) -> Finding:
    """The head's, which the other nodes need not have free."""
    if node.rank > 0:
        return Finding("Ray's port", f"{node.port}, of the head")
    error = port_error(node.address or "", node.port)
    if error is not None:
        fix = "RAY_PORT=another, or stop the process that uses it; HEAD_ADDR is an address of this machine"
        return Finding("Ray's port", f"{node.port}: {error}", fix)
    return Finding("Ray's port", f"{node.port} is free")


def check_space(name: str, path: Path, least_gb: float, fix: str) -> Finding:
    try:
        there = check_can_write(name, path).resolve()
        free = shutil.disk_usage(there).free / 1e9
    except ConfigError as error:
        return Finding(name, str(error), fix)
    return Finding(
        name, f"{free:.0f} GB free in {there}", None if free >= least_gb else f"{least_gb:g} GB are needed: {fix}"
    )


def check_temporary() -> Finding:
    """Where Ray keeps its session, sockets and what does not fit into shared memory."""
    fix = "RAY_TMPDIR=/another/folder"
    try:
        base = temporary_base()
    except ConfigError as error:
        return Finding("RAY_TMPDIR", str(error), fix)
    if not base.is_dir():
        return Finding("RAY_TMPDIR", f"{base} is no folder", fix)
    return check_space("RAY_TMPDIR", base, MIN_TEMPORARY_GB, fix)


def check_files(config: DictConfig) -> list[Finding]:
    """Model and data, where they are local."""
    findings = []
    if config.embedded_model is None:
        model = str(config.actor_rollout_ref.model.path)  # "None" where it is null
        local = model == "None" or model.startswith(("/", ".", "~"))
        usable = not local or (Path(model).expanduser() / "config.json").exists()
        fix = "a Hugging Face folder has a config.json; or give a hub id"
        findings.append(
            Finding("model", model if local else f"{model} (hub id: not looked up)", None if usable else fix)
        )
    for name in ("train_files", "val_files") if config.embedded_data is None else ():
        for file in data_files(config, f"data.{name}"):
            there = file is not None and Path(file).expanduser().exists()
            fix = f"data.{name}=...; python -m recipe.holderpo.data makes it"
            findings.append(Finding(name, f"{file}" if there else f"{file} is missing", None if there else fix))
    return findings


def check_wandb(config: DictConfig, environment: dict[str, str]) -> Finding:
    if "wandb" not in config.trainer.logger:
        return Finding("wandb", "not used: logger=wandb would")
    offline = environment.get("WANDB_MODE") in ("offline", "disabled")
    key = bool(environment.get("WANDB_API_KEY")) or "api.wandb.ai" in _netrc()
    found = "offline" if offline else "key found" if key else "no key"
    return Finding("wandb", found, None if offline or key else "wandb login, WANDB_API_KEY, or WANDB_MODE=offline")


def _netrc() -> str:
    try:
        return (Path.home() / ".netrc").read_text()
    except OSError:
        return ""


def check_values(config: DictConfig, node: Node = ONE_NODE) -> list[Finding]:
    """The checks that the command itself makes before Ray starts; as there, the first that finds something is the last."""
    checks: list[Callable[[DictConfig], None]] = [
        set_environment,
        check_config,
        *([check_cluster] if node.nodes == 1 else []),  # of several, the launcher makes the cluster
        lambda config: check_resume(config, find_checkpoint(config)),
        check_with_verl,
        check_inputs,
    ]
    for check in checks:
        try:
            check(config)
        except ConfigError as error:
            return [Finding("value", line, "docs/configuration.md") for line in error.lines]
    return [Finding("values", "all are allowed")]


def examine(config: DictConfig, node: Node) -> list[Finding]:
    findings = check_values(config, node)
    wrong = any(finding.fix is not None for finding in findings)
    room = "another run_dir, or keep_checkpoints=1"
    checks: list[Callable[[], Finding | list[Finding]]] = [
        check_python,
        lambda: check_versions("cpu" if config.trainer.device == "cpu" else "gpu"),
        check_plugin,
        lambda: check_gpus(config),
        lambda: check_driver(config),
        lambda: check_collectives(config),
        lambda: check_port(node),
        lambda: check_space("run_dir", Path(config.run_dir), disk_needed_gb(config), room),
        lambda: check_space("cache_dir", Path(config.cache_dir), MIN_CACHE_GB, "cache_dir=... on another disk"),
        check_temporary,
        lambda: check_space("shared memory", Path("/dev/shm"), MIN_SHM_GB, "docker run --shm-size=10g, or --ipc=host"),
        lambda: check_files(config),
        lambda: check_wandb(config, dict(os.environ)),
    ]
    for check in checks:
        try:
            found = check()
        except (AttributeError, TypeError, OmegaConfBaseException):
            if not wrong:
                raise
            continue  # it reads a value that is wrong, and named above
        findings += found if isinstance(found, list) else [found]
    return findings


def as_table(findings: Sequence[Finding]) -> str:
    """One line per check, and below each that failed its fix."""
    rows = []
    for finding in findings:
        rows.append(["ok" if finding.fix is None else "FAIL", finding.name, finding.found])
        if finding.fix is not None:
            rows.append(["", "", f"-> {finding.fix}"])
    return text_table(rows, justify="left")


def gpu(others: Sequence[str]) -> int:
    """`--gpu`."""
    try:
        if [*others] not in ([], ["hardware=cpu"]):
            raise ConfigError(f"--gpu {' '.join(others)}; allowed beside --gpu is hardware=cpu, or nothing")
        folder = Path("outputs").absolute() / f"gpu-{time.strftime('%Y%m%d-%H%M%S')}"
        return check_gpu("cpu" if others else "cuda", folder)
    except ConfigError as error:
        print_error(error)
        return ExitStatus.REFUSED


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(help_text(__doc__))
        return 0
    if "--gpu" in arguments:
        return gpu([argument for argument in arguments if argument != "--gpu"])
    node, lines = Node(), list[str]()
    try:
        node = read_node(os.environ)
    except ConfigError as error:
        lines += error.lines
    try:  # what the launcher would run
        nodes = [f"trainer.nnodes={node.nodes}"] if node.nodes > 1 else []
        config = compose_config([*legacy_overrides(os.environ), *arguments, *nodes])
    except ConfigError as error:
        lines += error.lines
    if lines:
        print_error(ConfigError(*lines))
        return ExitStatus.REFUSED
    findings = examine(config, node)
    failed = sum(finding.fix is not None for finding in findings)
    print(as_table(findings))
    print(f"{len(findings)} checks, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
