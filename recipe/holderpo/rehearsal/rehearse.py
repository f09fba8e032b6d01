"""The parts of a rehearsal, one after another; each runs the recipe's own commands in processes of their own."""

import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.checks import check_cluster, check_config, check_with_verl
from recipe.holderpo.config.compose import compose_config, set_environment
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.fault_tolerance.run_files import check_can_write
from recipe.holderpo.rehearsal.parts import Parts, run_command
from recipe.holderpo.rehearsal.replacements import (
    STEPS,
    VALIDATED,
    Replacement,
    key_of,
    override,
    replacements,
    value_of,
)
from recipe.holderpo.rehearsal.report import print_report
from recipe.holderpo.rehearsal.stand_ins import Target, find_target, make_data, make_model, missing_data
from recipe.holderpo.tasks.registry import load, tasks_of

ADDRESSES = ("127.0.0.2", "127.0.0.3")
MANY_CPUS = 10**6  # this machine's say nothing of the cluster's
# What would make a process a node of a cluster.
_OF_A_NODE = (
    "NNODES",
    "NODE_RANK",
    "HEAD_ADDR",
    "NODE_ADDR",
    "RAY_PORT",
    "SLURM_NNODES",
    "SLURM_NODEID",
    "SLURM_JOB_NODELIST",
)


@dataclass
class Rehearsal(Parts):
    overrides: list[str]
    """The user's."""
    nodes: int
    folder: Path
    config: DictConfig
    """What the cluster would have."""
    target: Target
    replaced: list[Replacement] = field(default_factory=list)

    def train(self, run: str, *more: str) -> str | None:
        """One run of the recipe on the CPU, on one node or on two."""
        given = [
            *self.overrides,
            *(one.override for one in self.replaced),
            override("run", run),
            override("run_dir", str(self.folder / run)),
            *more,
        ]
        environment = {name: value for name, value in os.environ.items() if name not in _OF_A_NODE}
        module = "recipe.holderpo.main" if self.nodes == 1 else "recipe.holderpo.launch"
        nodes = [environment]
        if self.nodes > 1:
            shared = {"NNODES": str(self.nodes), "HEAD_ADDR": ADDRESSES[0], "RAY_PORT": str(_free_port())}
            token = {"RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
            nodes = [
                {**environment, **shared, **token, "NODE_RANK": str(rank), "NODE_ADDR": address}
                for rank, address in enumerate(ADDRESSES[: self.nodes])
            ]
        log = self.folder / run / "driver.log"
        return run_command([sys.executable, "-m", module, *given], nodes, self.folder / f"{run}.txt", log)

    def evaluate(self) -> str | None:
        arguments = [
            "hardware=cpu", override("model", str(self.folder / "training")), override("out_dir", str(self.folder)),
            "run=evaluation", f"limit={VALIDATED}",
            f"max_tokens={self.value('data.max_response_length')}",
            f"engine.max_model_len={self.value('actor_rollout_ref.rollout.max_model_len')}",
            f"engine.dtype={self.config.actor_rollout_ref.rollout.dtype}",
        ]  # fmt: skip
        folder, benchmarks = self.benchmarks()
        arguments += [override("data_dir", str(folder)), override("benchmarks", benchmarks)]
        environment = dict(os.environ) | {"VERL_PLATFORM": "cpu"}
        command = [sys.executable, "-m", "recipe.holderpo.evaluation", *arguments]
        return run_command(command, [environment], self.folder / "evaluation.txt")

    def benchmarks(self) -> tuple[Path, list[str]]:
        """The folder and the names of the evaluation files among the validation files."""
        files = self.value("data.val_files")
        paths = [Path(str(file)) for file in (files if isinstance(files, list) else [files])]
        names = [path.stem.removeprefix("eval_") for path in paths if path.stem.startswith("eval_")]
        return paths[0].parent, names

    def value(self, key: str) -> object:
        """A key's value in the rehearsal."""
        for one in reversed(self.replaced):
            if one.key == key:
                return one.value
        return value_of(self.config, key)


def rehearse(overrides: Sequence[str], nodes: int = 1) -> int:
    """Rehearse a command; its exit status: 0, or 1 where a part went wrong.

    Args:
        overrides: the command's, with `rehearse` or without.
        nodes: NNODES of the command. More than two are rehearsed as two.

    Raises:
        ConfigError: the overrides or the model cannot be read, or nothing can be written.
    """
    given = [one for one in overrides if key_of(one) != "rehearse"]
    config = compose_config([*given, f"trainer.nnodes={nodes}"] if nodes > 1 else given)
    if config.trainer.device == "cpu":
        raise ConfigError("rehearse is true; allowed with trainer.device=cpu is false: that run needs no rehearsal")
    set_environment(config)
    folder = Path(config.run_dir).parent / f"rehearsal-{time.strftime('%Y%m%d-%H%M%S')}"
    check_can_write("run_dir", folder)
    here = min(nodes, len(ADDRESSES))
    given = [one for one in given if key_of(one) != "trainer.nnodes"]  # the launcher's own, on two nodes
    this = Rehearsal(
        given, here, folder, config, find_target("actor_rollout_ref.model.path", config.actor_rollout_ref.model.path)
    )
    folder.mkdir(parents=True)
    print(f"rehearsal: {folder}", flush=True)
    this.part("model and data", this.target.what_is_kept, "shrunk, random weights", lambda: _stand_ins(this))
    if this.part("config", "all checks of values, before and by verl", "", lambda: _check(this, nodes)):
        this.replaced += replacements(config, this.nodes)
    where = "this machine" if this.nodes == 1 else f"{this.nodes} addresses of this machine"
    steps = f"{STEPS} steps, of which these took most:"
    if this.part("training", f"the launch, Ray, {steps}", f"a CPU, {where}", lambda: this.train("training")):
        first = folder / "training" / "checkpoints" / "global_step_1"
        resume = [
            "trainer.resume_mode=resume_path",
            override("trainer.resume_from_path", str(first)),
            "trainer.val_before_train=false",
        ]
        this.part("resume", "from the checkpoint of step 1, to the end", "", lambda: this.train("resumed", *resume))
    if this.benchmarks()[1]:
        this.part("evaluation", "merge, vLLM, template, grader", "a few problems", this.evaluate)
    print_report(this)
    for name in ("training", "resumed"):
        shutil.rmtree(folder / name / "checkpoints", ignore_errors=True)
    return int(this.failed)


def _stand_ins(this: Rehearsal) -> None:
    make_model(this.target, this.config.actor_rollout_ref.model.trust_remote_code, this.folder / "model")
    key, path = "actor_rollout_ref.model.path", str(this.folder / "model")
    this.replaced.append(Replacement(key, value_of(this.config, key), path, this.target.why_replaced))
    data = this.folder / "data"
    data.mkdir()
    made = dict[str, object]()
    for task in tasks_of(this.config).values():
        if task.rehearsal_data is not None and this.config.embedded_data is not None:
            made |= load(task.rehearsal_data)(data)
    if missing := missing_data(this.config):
        files = dict(zip(("data.train_files", "data.val_files"), make_data(data), strict=True))
        made |= {key: str(files[key]) for key in missing}
    this.replaced += [Replacement(key, value_of(this.config, key), value, "not there") for key, value in made.items()]


def _check(this: Rehearsal, nodes: int) -> None:
    """The config as the cluster would have it but for what is not on this machine: model, data, flash-attn, GPUs, cores."""
    config = compose_config([*this.overrides, *(one.override for one in this.replaced)])
    config.trainer.nnodes = this.config.trainer.nnodes
    set_environment(config)
    check_config(config)
    if nodes == 1:
        check_cluster(OmegaConf.merge(config, {"ray_kwargs": {"ray_init": {"num_cpus": MANY_CPUS}}}))
    check_with_verl(config)


def _free_port() -> int:
    """One that the system would give, so outside the range of Ray's workers."""
    with socket.socket() as some:
        some.bind((ADDRESSES[0], 0))
        return int(some.getsockname()[1])
