"""Train with HölderPO or a baseline: `python -m recipe.holderpo.main [Hydra overrides]`.

Order of events: compose the config, check it, make the embedded model and data (where asked for), start Ray and verl's
trainer, show progress, draw the curves. verl, vLLM and Ray are imported when our own checks of the config have passed.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.holderpo.config.checks import check_cluster, check_config, check_with_verl
from recipe.holderpo.config.compose import refusals_of_hydra, register_resolvers, resolve, set_environment
from recipe.holderpo.config.errors import ConfigError, print_error
from recipe.holderpo.config.help import help_text, wants_help
from recipe.holderpo.config.settings import stall_settings, uses_holder_loss
from recipe.holderpo.fault_tolerance.checkpoint import Checkpoint, delete_unfinished
from recipe.holderpo.fault_tolerance.collapse import Collapsed, NotFinite
from recipe.holderpo.fault_tolerance.command import how_to_resume
from recipe.holderpo.fault_tolerance.console import console_that_holds_nothing
from recipe.holderpo.fault_tolerance.resume import check_resume, find_checkpoint
from recipe.holderpo.fault_tolerance.run_files import check_can_write, one_driver_per_run, temporary_folder
from recipe.holderpo.fault_tolerance.signals import (
    ExitStatus,
    Stopped,
    StopRequest,
    exit_on_sigterm,
    interrupt_on_sigint,
)
from recipe.holderpo.fault_tolerance.stalls import Stalled, stall_checks
from recipe.holderpo.report.events import forget, note_event
from recipe.holderpo.startup.server import ForkServer
from recipe.holderpo.tasks.registry import make_embedded


def run(config: DictConfig) -> None:
    exit_on_sigterm()
    config = resolve(config)
    set_environment(config)
    check_config(config)
    if config.rehearse:
        raise ConfigError(
            "rehearse is true; allowed in this command is false: python -m recipe.holderpo.launch and the scripts for GPUs "
            "rehearse"
        )
    check_cluster(config)
    run_dir = Path(config.run_dir)
    check_can_write("run_dir", run_dir)
    with ExitStack() as held:
        if run_dir.exists():
            held.enter_context(one_driver_per_run(config.run, run_dir))
        server = None
        if OmegaConf.select(config, "ray_kwargs.ray_init.address") == "local":
            held.enter_context(temporary_folder(run_dir))
            server = held.enter_context(ForkServer()) if config.fork_workers else None
        checkpoint = find_checkpoint(config)
        check_resume(config, checkpoint)
        try:
            make_embedded(config.embedded_model, config.embedded_data, Path(config.cache_dir))
        except OSError as error:
            raise ConfigError(f"cache_dir is {config.cache_dir!r}; nothing can be made in it: {error}") from error
        check_with_verl(config)
        from recipe.holderpo.config.inputs import check_inputs

        check_inputs(config)
        if not run_dir.exists():
            run_dir.mkdir(parents=True)
            held.enter_context(one_driver_per_run(config.run, run_dir))
        OmegaConf.save(config, run_dir / "config.yaml")
        print(f"run {config.run}: {run_dir}", flush=True)
        train_and_report(config, checkpoint, server)


def train_and_report(config: DictConfig, checkpoint: Checkpoint | None, server: ForkServer | None = None) -> None:
    """Train to the last step and report; or exit with the status that says why the run is not finished."""
    interrupt_on_sigint()
    import ray
    from ray.exceptions import RayError

    from recipe.holderpo.fault_tolerance.restart import lost_process, unwrapped, with_restarts

    run_dir = Path(config.run_dir)
    if checkpoint is None:
        forget(run_dir)
    else:
        note_event(run_dir, checkpoint.step, f"resumed from step {checkpoint.step}")
    stop = StopRequest(config.run_dir, config.stop_grace_s)
    try:
        with stop:
            with_restarts(partial(train, stop=stop, server=server), config, checkpoint)
    except Stopped as stopped:
        print(f"{unwrapped(stopped)}, and saved; {how_to_resume(config, sys.argv, os.environ)}", flush=True)
        sys.exit(ExitStatus.STOPPED)
    except Stalled as stalled:
        print(f"error: {stalled}" + (", and not saved" if stalled.stopping else ""), file=sys.stderr)
        print(how_to_resume(config, sys.argv, os.environ))
        sys.exit(ExitStatus.STOPPED if stalled.stopping else 1)
    except (Collapsed, NotFinite) as error:
        print(f"error: {unwrapped(error)} (guard in the config says when to stop)", file=sys.stderr)
        sys.exit(ExitStatus.GUARD)
    except (RayError, RuntimeError) as error:
        lost = lost_process(error)
        if lost is None:
            raise
        with _output_to(run_dir / "driver.log"):
            traceback.print_exc()
        print(f"error: lost a process ({lost}); {run_dir}/driver.log has the details", file=sys.stderr)
        print(how_to_resume(config, sys.argv, os.environ))
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopping ...", flush=True)
        ray.shutdown()
        delete_unfinished(Path(config.trainer.default_local_dir))
        why = f"not finished within stop_grace_s={config.stop_grace_s}, so not saved" if stop.given else "stopped"
        print(f"{why}; {how_to_resume(config, sys.argv, os.environ)}")
        sys.exit(ExitStatus.STOPPED if stop.given else ExitStatus.INTERRUPTED)
    finally:
        ray.shutdown()
    report(config)


def train(
    config: DictConfig, checkpoint: Checkpoint | None, stop: StopRequest, server: ForkServer | None = None
) -> None:
    """Run verl's trainer from the checkpoint to the last step, with a line per step from the run's record."""
    from verl.trainer.main_ppo import run_ppo

    from recipe.holderpo.report.console import Progress
    from recipe.holderpo.training.task_runner import HolderTaskRunner, start_ray

    run_dir, resume = Path(config.run_dir), {"resume_mode": "disable", "resume_from_path": None}
    if checkpoint is not None:
        resume = {"resume_mode": "resume_path", "resume_from_path": str(checkpoint.folder)}
    config = OmegaConf.merge(config, {"trainer": resume})
    clip_level = config.holder.clip_level if uses_holder_loss(config) else None
    progress = Progress(run_dir / "metrics.jsonl", config.trainer.total_training_steps, clip_level=clip_level)
    own_ray = OmegaConf.select(config, "ray_kwargs.ray_init.address") == "local"
    keep = server.pids if server else tuple
    stalls = stall_checks(run_dir, stall_settings(config), lambda: stop.given, config.stop_grace_s, keep, own_ray)
    with stalls, progress, _output_to(run_dir / "driver.log"):
        start_ray(config, server)
        stop.listen()
        run_ppo(config, task_runner_class=HolderTaskRunner)


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Write what verl and Ray print in this process to a file; the console is for a line per step."""
    with path.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def report(config: DictConfig) -> None:
    """Draw the curves, write the page and print the final table."""
    from recipe.holderpo.report.curves import plot_curves
    from recipe.holderpo.report.page.write import PAGE_FILE, write_page
    from recipe.holderpo.report.record import read_run
    from recipe.holderpo.report.summary import final_table

    run_dir = Path(config.run_dir)
    plot_curves(run_dir / "metrics.jsonl", run_dir / "curves.png", title=config.run)
    try:
        write_page({run_dir: read_run(run_dir)}, run_dir / PAGE_FILE)
    except Exception as error:  # the run is finished, whatever a page of it is worth
        print(
            f"note: {run_dir / PAGE_FILE} is not written: {type(error).__name__}: {error}", file=sys.stderr, flush=True
        )
    print(final_table(run_dir))


register_resolvers()  # Hydra composes before `main` is called


@hydra.main(config_path="../../conf", config_name="holderpo", version_base=None)
def main(config: DictConfig) -> None:
    with console_that_holds_nothing():
        try:
            run(config)
        except (ConfigError, OmegaConfBaseException) as error:  # the latter: a missing value, a wrong interpolation
            print_error(error)
            sys.exit(ExitStatus.REFUSED)


if __name__ == "__main__":
    if wants_help(sys.argv[1:]):
        sys.exit(print(help_text(__doc__)))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # raised to here, where Hydra would print some lines of its own
    try:
        with refusals_of_hydra():
            main()
    except ConfigError as error:
        print_error(error)
        sys.exit(ExitStatus.REFUSED)
