"""Which errors are the loss of a process, on a real Ray, and what is done about them."""

import os
import signal
from pathlib import Path

import pytest
import ray
from omegaconf import DictConfig, OmegaConf
from ray.exceptions import RayTaskError

from recipe.holderpo.fault_tolerance import restart
from recipe.holderpo.fault_tolerance.checkpoint import Checkpoint, commit, step_folders
from recipe.holderpo.fault_tolerance.collapse import Collapsed
from recipe.holderpo.fault_tolerance.restart import lost_process, with_restarts
from recipe.holderpo.report.events import read_events


@ray.remote(num_cpus=0)
class Server:
    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work(self) -> int:
        return 1


@ray.remote(num_cpus=0)
class Trainer:
    """Calls a server, as verl's task runner does; its caller sees the error of another process."""

    def step(self, kill: bool) -> int:
        server = Server.remote()  # type: ignore[attr-defined]
        if kill:
            server.die.remote()
        result: int = ray.get(server.work.remote())
        return result

    def wrong(self) -> None:
        raise ValueError("ppo_mini_batch_size")


def test_the_loss_of_a_process_is_told_from_other_errors(cluster: None) -> None:
    trainer = Trainer.remote()  # type: ignore[attr-defined]
    assert ray.get(trainer.step.remote(False)) == 1
    with pytest.raises(RayTaskError) as died:
        ray.get(trainer.step.remote(True))
    assert lost_process(died.value) == "ActorDiedError"
    with pytest.raises(ValueError, match="ppo_mini") as wrong:
        ray.get(trainer.wrong.remote())
    assert lost_process(wrong.value) is None
    ray.kill(trainer)
    with pytest.raises(ray.exceptions.RayActorError) as gone:
        ray.get(trainer.step.remote(False))
    assert lost_process(gone.value) == "ActorDiedError"
    try:
        raise RuntimeError("while closing") from gone.value
    except RuntimeError as error:
        assert lost_process(error) == "ActorDiedError"


def config(tmp_path: Path, restarts: int) -> DictConfig:
    trainer = {"default_local_dir": str(tmp_path), "resume_mode": "auto", "save_freq": 1}
    guard = {"on_collapse": "rollback"}
    made = OmegaConf.create(
        {"restarts": restarts, "trainer": trainer, "guard": guard, "run": "r", "run_dir": str(tmp_path)}
    )
    assert isinstance(made, DictConfig)
    return made


def lost() -> Exception:
    return RuntimeError("ray.exceptions.ActorDiedError: The actor died unexpectedly")


def test_restarts_until_it_is_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen, outcomes = [], [lost(), lost(), None]

    def train(_: DictConfig, checkpoint: Checkpoint | None) -> None:
        seen.append(checkpoint and checkpoint.step)
        step = tmp_path / f"global_step_{len(seen)}"  # it gets that far
        step.mkdir()
        commit(step, {})
        if (error := outcomes.pop(0)) is not None:
            raise error

    with_restarts(train, config(tmp_path, 2), None)
    assert outcomes == [] and seen == [None, 1, 2]
    output = capsys.readouterr()
    assert "lost a process (ActorDiedError); restarts left: 1" in output.err
    assert "resuming from step 2" in output.out
    assert read_events(tmp_path) == [(n, f"lost a process (ActorDiedError); went on from step {n}") for n in (1, 2)]


@pytest.mark.parametrize(("restarts", "error", "calls"), [(2, lost(), 3), (0, lost(), 1), (2, ValueError("x"), 1)])
def test_gives_up(
    restarts: int, error: Exception, calls: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called = 0

    def train(_: DictConfig, checkpoint: Checkpoint | None) -> None:
        nonlocal called
        called += 1
        raise error

    with pytest.raises(type(error)):
        with_restarts(train, config(tmp_path, restarts), None)
    assert called == calls
    assert ("there is no checkpoint yet" in capsys.readouterr().err) == (calls > 1)


@pytest.mark.parametrize(("nodes", "there"), [((1, 1), True), ((1,), False), ((1, 0), False)])
def test_a_run_whose_node_is_gone_is_not_started_again_here(
    nodes: tuple[int, ...], there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two nodes with one GPU each; the other one may still be on Ray's books for a while."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(restart, "SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(restart, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    looks = iter([(1, 1), *[nodes] * 100])
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"GPU": gpus}} for gpus in next(looks)])
    two_nodes = config(tmp_path, 1)
    two_nodes.ray_kwargs = {"ray_init": {"address": "127.0.0.2:6379"}}
    two_nodes.trainer = {**two_nodes.trainer, "nnodes": 2, "n_gpus_per_node": 1}
    calls = []

    def train(_: DictConfig, checkpoint: Checkpoint | None) -> None:
        calls.append(checkpoint)
        raise lost()

    with pytest.raises(RuntimeError, match="ActorDiedError"):
        with_restarts(train, two_nodes, None)
    assert len(calls) == 1 + there and signal.getsignal(signal.SIGTERM) is handler


def test_an_interrupt_is_no_lost_process(tmp_path: Path) -> None:
    def train(_: DictConfig, checkpoint: Checkpoint | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_restarts(train, config(tmp_path, 2), None)


def collapsed(since: int) -> Exception:
    """As it comes from the trainer's process."""
    error = RayTaskError("step", "traceback", Collapsed("entropy is 0", since)).as_instanceof_cause()
    assert isinstance(error, Exception)
    return error


def saved(root: Path, *steps: int) -> None:
    for step in steps:
        (root / f"global_step_{step}").mkdir()
        commit(root / f"global_step_{step}", {})


def test_a_collapse_goes_back_before_it_and_for_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoints of the collapsed steps go, so that whatever happens next does not bring them back."""
    saved(tmp_path, 10, 20, 30)
    seen, outcomes = [], [collapsed(since=15), lost(), None]

    def train(_: DictConfig, checkpoint: Checkpoint | None) -> None:
        seen.append(checkpoint and checkpoint.step)
        if (error := outcomes.pop(0)) is not None:
            raise error

    with_restarts(train, config(tmp_path, 2), None)
    assert seen == [None, 10, 10]
    assert [folder.name for folder in step_folders(tmp_path)] == ["global_step_10"]
    assert "collapsed: entropy is 0; restarts left: 1" in capsys.readouterr().err


@pytest.mark.parametrize(("saved_at", "on_collapse"), [((), "rollback"), ((20, 30), "rollback"), ((10,), "stop")])
def test_a_collapse_with_nothing_to_go_back_to_is_the_end(
    saved_at: tuple[int, ...], on_collapse: str, tmp_path: Path
) -> None:
    saved(tmp_path, *saved_at)
    settings = config(tmp_path, 2)
    settings.guard.on_collapse = on_collapse
    calls = []

    def train(_: DictConfig, checkpoint: Checkpoint | None) -> None:
        calls.append(checkpoint)
        raise collapsed(since=15)

    with pytest.raises(Collapsed):
        with_restarts(train, settings, None)
    assert calls == [None] and len(step_folders(tmp_path)) == len(saved_at)


def test_a_run_that_began_elsewhere_goes_on_from_its_own_checkpoint_once_it_has_one(tmp_path: Path) -> None:
    elsewhere, seen = Checkpoint(tmp_path / "global_step_7", 7, {}), []

    def train(_: DictConfig, checkpoint: Checkpoint | None) -> None:
        assert checkpoint is not None
        seen.append(checkpoint.step)
        if len(seen) == 2:
            saved(tmp_path, 9)
        if len(seen) < 4:
            raise lost()

    with_restarts(train, config(tmp_path, 5), elsewhere)
    assert seen == [7, 7, 9, 9]
