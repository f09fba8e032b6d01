"""Train with HölderPO or a baseline: `python -m recipe.holderpo.main [Hydra overrides]`.

Order of events: compose the config, check it, prepare the embedded model and data (where asked for), start Ray and verl's
trainer, show progress, draw the curves. Nothing heavy is imported before the config has been checked.
"""

import importlib.util
import io
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from recipe.holderpo.config.checks import ConfigError, check_config
from recipe.holderpo.data.templates import chat_template
from recipe.holderpo.fault_tolerance import preemption as stop
from recipe.holderpo.fault_tolerance.checkpoint import Checkpoint
from recipe.holderpo.fault_tolerance.collapse import Collapsed, NotFinite
from recipe.holderpo.fault_tolerance.resume import check_resume, find_checkpoint
from recipe.holderpo.fault_tolerance.run_files import only_driver, temporary_folder

GUARD_STATUS = 3


def _verl_config_dir() -> str:
    """Folder of verl's own Hydra configs, found without importing verl (which takes seconds)."""
    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("error: verl is not installed; `bash scripts/run_local.sh` sets up an environment that has it")
    return str(Path(spec.submodule_search_locations[0]) / "trainer" / "config")


OmegaConf.register_new_resolver("verl_config_dir", _verl_config_dir)
OmegaConf.register_new_resolver("math_template", chat_template)
OmegaConf.register_new_resolver("cores_per_rank", lambda ranks: max(1, (os.cpu_count() or 1) // ranks))
OmegaConf.register_new_resolver("recipe_file", lambda name: str(Path(__file__).parent / name))


def resolve(config: DictConfig) -> DictConfig:
    """The config with absolute paths and every interpolation resolved, so that all processes read the same values."""
    config.run_dir = os.path.abspath(os.path.expanduser(config.run_dir))
    config.cache_dir = os.path.abspath(os.path.expanduser(config.cache_dir))
    OmegaConf.resolve(config)
    return config


def set_environment(config: DictConfig) -> None:
    """Give `config.env` to this process, which reads VERL_PLATFORM when it imports verl, and to Ray's workers, which may
    belong to a cluster that is up already."""
    env = {name: str(value) for name, value in config.env.items()}
    os.environ.update(env)
    with open_dict(config):
        OmegaConf.update(config, "ray_kwargs.ray_init.runtime_env.env_vars", env, force_add=True)


def check(config: DictConfig) -> None:
    """Everything that can be found wrong before Ray starts: our checks, then verl's."""
    check_config(config)
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it also prints that all is well
            use_reference_policy, use_critic = need_reference_policy(config), need_critic(config)
            validate_config(config=config, use_reference_policy=use_reference_policy, use_critic=use_critic)
    except Exception as error:  # verl raises whatever its checks happen to raise
        raise ConfigError(f"verl refuses this config: {' '.join(str(error).split())}") from error


def check_inputs(config: DictConfig) -> None:
    """The files that the config names, once they are there."""
    from recipe.holderpo.config.inputs import check_data, check_model

    if OmegaConf.select(config, "data.custom_cls.path") is None:  # a data set class of yours reads what it likes
        check_data(config)
        check_model(config)


def train(config: DictConfig, checkpoint: Checkpoint | None, notice: stop.Notice) -> None:
    """Run verl's trainer from the checkpoint to the end, with a line a step from the run's record."""
    from verl.trainer.main_ppo import run_ppo

    from recipe.holderpo.report.console import Progress
    from recipe.holderpo.training.task_runner import HolderTaskRunner

    class RunnerAfterInit:
        """What verl makes its task runner from, once Ray is up."""

        runner = HolderTaskRunner

        def options(self, **options: Any) -> "RunnerAfterInit":
            self.runner = self.runner.options(**options)
            return self

        def remote(self) -> Any:
            notice.listen()
            return self.runner.remote()

    run_dir, resume = Path(config.run_dir), {"resume_mode": "disable", "resume_from_path": None}
    if checkpoint is not None:
        resume = {"resume_mode": "resume_path", "resume_from_path": str(checkpoint.folder)}
    config = OmegaConf.merge(config, {"trainer": resume})
    with Progress(run_dir / "metrics.jsonl", config.trainer.total_training_steps), _output_to(run_dir / "driver.log"):
        run_ppo(config, task_runner_class=RunnerAfterInit())


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Keep what verl and Ray print in this process in a file; the console is for a line a step."""
    with path.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def report(config: DictConfig) -> None:
    """Draw the curves and print the closing table."""
    from recipe.holderpo.report.curves import plot_curves
    from recipe.holderpo.report.summary import final_table

    run_dir = Path(config.run_dir)
    plot_curves(run_dir / "metrics.jsonl", run_dir / "curves.png", title=config.run)
    print(final_table(run_dir))


def run(config: DictConfig) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(stop.STATUS))  # nothing to save yet
    config = resolve(config)
    set_environment(config)
    check_config(config)
    run_dir = Path(config.run_dir)
    with ExitStack() as held:
        if run_dir.exists():
            held.enter_context(only_driver(config.run, run_dir))
        checkpoint = find_checkpoint(config)
        check_resume(config, checkpoint)
        from recipe.holderpo.embedded import prepare

        prepare.ensure(config.embedded_model, config.embedded_data, Path(config.cache_dir))
        check(config)
        check_inputs(config)
        if not run_dir.exists():
            run_dir.mkdir(parents=True)
            held.enter_context(only_driver(config.run, run_dir))
        OmegaConf.save(config, run_dir / "config.yaml")
        print(f"run {config.run}: {run_dir}", flush=True)
        if OmegaConf.select(config, "ray_kwargs.ray_init.address") == "local":
            held.enter_context(temporary_folder(run_dir))
        run_to_its_end(config, checkpoint)


def run_to_its_end(config: DictConfig, checkpoint: Checkpoint | None) -> None:
    """Train, and report; or exit with the status that says why it is not finished."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    from recipe.holderpo.fault_tolerance.restart import unwrapped, with_restarts

    notice = stop.Notice(config.run_dir, config.stop_grace_s)
    try:
        with notice:
            with_restarts(partial(train, notice=notice), config, checkpoint)
    except stop.Stopped as stopped:
        print(f"{unwrapped(stopped)}, and saved; {_again(config)}", flush=True)
        sys.exit(stop.STATUS)
    except (Collapsed, NotFinite) as error:
        print(f"error: {unwrapped(error)} (guard in the config says when to stop)", file=sys.stderr)
        sys.exit(GUARD_STATUS)
    except KeyboardInterrupt:
        print("\nstopping ...", flush=True)
        _stop_ray()
        if notice.given:
            print(f"not through within stop_grace_s={config.stop_grace_s}, so not saved; {_again(config)}")
            sys.exit(stop.STATUS)
        print(f"stopped; {_again(config)}")
        sys.exit(130)
    finally:
        _stop_ray()
    report(config)


def _again(config: DictConfig) -> str:
    overrides = shlex.join(a for a in sys.argv[1:] if not a.startswith("run="))
    return f"to go on from the last checkpoint: bash scripts/run_local.sh run={config.run} {overrides}".rstrip()


def _stop_ray() -> None:
    import ray

    ray.shutdown()


@hydra.main(config_path="../../conf", config_name="holderpo", version_base=None)
def main(config: DictConfig) -> None:
    try:
        run(config)
    except (ConfigError, OmegaConfBaseException) as error:  # the latter: a missing value, a wrong interpolation
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
