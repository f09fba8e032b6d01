"""The trainer's wiring: what it watches, what it records, when it stops, and what it does about a save that fails."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transfer_queue.interface as tq_interface
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from holderpo_core import Schedule, ScheduledP
from recipe.holderpo.config.settings import GuardSettings, StallSettings
from recipe.holderpo.fault_tolerance.checkpoint import committed, newest_complete, read_manifest, step_folders
from recipe.holderpo.fault_tolerance.collapse import Collapsed, CollapseDetector, NotFinite
from recipe.holderpo.fault_tolerance.progress import Progress
from recipe.holderpo.fault_tolerance.signals import STOP_REQUEST, Stopped
from recipe.holderpo.report.record import RunRecord, read_metrics
from recipe.holderpo.training import trainer as trainer_module
from recipe.holderpo.training.rank_save import SavedPart
from recipe.holderpo.training.step_p import StepP
from recipe.holderpo.training.trainer import HolderTrainerSeparateAsync, HolderTrainerSync
from recipe.holderpo.training.verl_internals import processes_of
from recipe.holderpo.training.worker import P_KEY


def manager(name: str) -> SimpleNamespace:
    replicas = [SimpleNamespace(servers=[f"{name} server {i} on node {node}" for node in (0, 1)]) for i in (0, 1)]
    return SimpleNamespace(get_replicas=lambda: replicas, global_load_balancer=f"{name} balancer")


OWN = {"own server 0 on node 0", "own server 0 on node 1", "own server 1 on node 0", "own server 1 on node 1"}


def test_it_watches_all_that_a_sample_or_a_weight_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tq_interface, "_TQ_CONTROLLER", "queue")
    monkeypatch.setattr(tq_interface, "_TQ_STORAGE", {"SimpleStorage": {"0": "storage 0", "1": "storage 1"}})
    trainer = object.__new__(HolderTrainerSync)
    trainer.llm_server_manager = manager("own")
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_workers=["reward"])
    before = OWN | {"own balancer", "reward", "queue", "storage 0", "storage 1"}
    assert set(processes_of(trainer)) == before
    trainer.agent_loop_manager = SimpleNamespace(agent_loop_workers=["agent loop"])
    assert set(processes_of(trainer)) == before | {"agent loop"}
    monkeypatch.setattr(tq_interface, "_TQ_STORAGE", None)
    assert set(processes_of(trainer)) == OWN | {"own balancer", "reward", "agent loop", "queue"}


def test_servers_apart_from_the_trainer_are_watched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tq_interface, "_TQ_CONTROLLER", "queue")
    trainer = object.__new__(HolderTrainerSeparateAsync)
    trainer.standalone_server_manager = manager("apart")
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_workers=[])
    assert {"apart server 0 on node 0", "apart server 1 on node 1", "apart balancer"} < set(processes_of(trainer))


TOTAL = 5
HEALTHY = {"actor/entropy": 0.5, "actor/grad_norm": 1.0, "holder/p_mean": 0.0}


class Recorded:
    """What the fake verl below was called with."""

    saves = 0
    save_fails = False
    p: list[float]


@pytest.fixture
def verl(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    """The methods of verl's trainer, without a cluster: a step writes its metrics, a save its files."""
    Recorded.saves, Recorded.save_fails, Recorded.p = 0, False, []

    def update_actor(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        Recorded.p.append(batch.extra_info[P_KEY])
        metrics.update(HEALTHY)
        return batch

    def save_checkpoint(self: Any) -> None:
        Recorded.saves += 1
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        (folder / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"weights")
        if Recorded.save_fails:
            raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(PPOTrainer, "_update_actor", update_actor)
    monkeypatch.setattr(PPOTrainer, "_save_checkpoint", save_checkpoint)
    monkeypatch.setattr(PPOTrainer, "_compute_metrics", lambda self, batch, metrics, *args, **kwargs: None)
    monkeypatch.setattr(PPOTrainer, "_validate", lambda self: {"val-core/sums/acc/mean@1": 0.25})
    monkeypatch.setattr(PPOTrainer, "_load_checkpoint", lambda self: None)
    monkeypatch.setattr(trainer_module, "finish_metrics", lambda metrics: metrics)
    monkeypatch.setattr(trainer_module, "finish_update_measures", lambda metrics: None)
    monkeypatch.setattr(trainer_module, "mean_reward", lambda batch: 0.5)
    monkeypatch.setattr(
        trainer_module, "further_metrics", lambda batch, metrics: {"guard/nonfinite_updates": batch.nonfinite}
    )
    monkeypatch.setattr(trainer_module, "processes_of", lambda trainer: [])
    monkeypatch.setattr(trainer_module, "check_alive", lambda processes, seconds: None)
    return Recorded


class Batch(SimpleNamespace):
    nonfinite = 0.0


def make_trainer(tmp_path: Path, step: int = 0, in_background: bool = False, **guard: Any) -> HolderTrainerSync:
    """A trainer of a run of five steps with p from 2 to -2, as it is after `init` and `step` steps."""
    trainer = object.__new__(HolderTrainerSync)
    trainer.progress = Progress(StallSettings(), tmp_path / "micro_batches")
    trainer.config = OmegaConf.create(
        {
            "run_dir": str(tmp_path),
            "keep_checkpoints": 2,
            "guard": {"on_nonfinite": "skip"} | guard,
            "report": {"token_groups": 0},
            "actor_rollout_ref": {"actor": {"checkpoint": {"async_save": in_background}}},
            "trainer": {
                "default_local_dir": str(tmp_path / "checkpoints"), "nnodes": 1, "n_gpus_per_node": 1, "test_freq": 2,
            },
        }
    )  # fmt: skip
    trainer.total_training_steps, trainer.steps_per_epoch = TOTAL, TOTAL
    trainer._composed, trainer.timing_raw = {"seed": 1}, {"gen": 1.0}
    trainer.p = StepP(ScheduledP(Schedule("linear", 2.0, -2.0), TOTAL))
    trainer.record = RunRecord(tmp_path)
    trainer.collapse = CollapseDetector(GuardSettings(**guard))
    trainer.actor_rollout_wg = SimpleNamespace(saved_part=lambda: [SavedPart()])
    trainer._saves, trainer._saving = ThreadPoolExecutor(1), None
    trainer.logger = SimpleNamespace(logger={})
    trainer.checkpoint_callback = SimpleNamespace(on_save=lambda **_: None)
    trainer.global_steps = step
    if step == 0:
        trainer.record.resume_from(0)
    return trainer


def folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in step_folders(tmp_path / "checkpoints"))


def train_step(trainer: HolderTrainerSync, batch: Any = None, begun: Any = False, **metrics: float) -> dict[str, Any]:
    """verl's order of events in a step: update, save where it is due, record."""
    trainer.global_steps += not begun
    batch, found = batch or Batch(), dict(metrics)
    batch.extra_info = {}
    trainer._update_actor(batch, found)
    found.update(metrics)
    trainer._trained = batch, found
    return found


def record_step(trainer: HolderTrainerSync, metrics: dict[str, Any]) -> None:
    trainer._compute_metrics(trainer._trained[0], metrics, {}, trainer.global_steps, 0)


def test_every_step_has_its_p_and_its_line(verl: type[Recorded], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    for _ in range(TOTAL):
        record_step(trainer, train_step(trainer))
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["holder/p"]) for r in records] == [(1, 2.0), (2, 1.0), (3, 0.0), (4, -1.0), (5, -2.0)]
    assert verl.p == [2.0, 1.0, 0.0, -1.0, -2.0]


def test_a_run_beyond_its_limits_collapses_at_the_step_that_is_one_too_many(
    verl: type[Recorded], tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, entropy_min=0.1, steps=2)
    record_step(trainer, train_step(trainer, **{"actor/entropy": 0.05}))
    with pytest.raises(Collapsed, match=r"in every step since 1"):
        record_step(trainer, train_step(trainer, **{"actor/entropy": 0.05}))
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2], "the step is recorded first"


@pytest.mark.parametrize("on_nonfinite", ["skip", "stop"])
def test_an_update_that_is_not_finite(on_nonfinite: str, verl: type[Recorded], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, on_nonfinite=on_nonfinite)
    metrics = train_step(trainer, Batch(nonfinite=1.0), **{"actor/grad_norm": math.nan})
    if on_nonfinite == "stop":
        with pytest.raises(NotFinite, match=r"of step 1 was not finite"):
            record_step(trainer, metrics)
    else:
        record_step(trainer, metrics)
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["guard/nonfinite_updates"] == 1.0


def test_a_checkpoint_brings_back_every_parts_state(verl: type[Recorded], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, entropy_min=0.1, steps=3)
    record_step(trainer, train_step(trainer))
    record_step(trainer, train_step(trainer, **{"actor/entropy": 0.05}))
    metrics = train_step(trainer, **{"actor/entropy": 0.05, "reward": math.inf})
    trainer._save_checkpoint()
    del metrics  # the process is killed before the step has its line
    found, skipped = newest_complete(tmp_path / "checkpoints")
    assert found is not None and found.step == 3 and skipped == []
    assert found.manifest["config"] == {"seed": 1}
    json.loads((found.folder / "manifest.json").read_text(), parse_constant=lambda name: pytest.fail(name))

    resumed = resume_trainer(tmp_path, 3, entropy_min=0.1, steps=3)
    assert resumed.p is not None and (resumed.p.step, resumed.p.p) == (3, 0.0)
    assert resumed.collapse.since == 2
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[2]["reward"] == math.inf and lines[2]["holder/p"] == 0.0
    with pytest.raises(Collapsed, match="since 2"):
        record_step(resumed, train_step(resumed, **{"actor/entropy": 0.05}))


def resume_trainer(tmp_path: Path, step: int, **guard: Any) -> HolderTrainerSync:
    resumed = make_trainer(tmp_path, step=step, **guard)
    resumed.queue = Future()
    resumed.queue.set_result(None)
    resumed.config.trainer.resume_from_path = str(tmp_path / f"checkpoints/global_step_{step}")
    resumed._load_checkpoint()
    return resumed


@pytest.mark.parametrize(("entropies", "since"), [((0.05, 0.5), None), ((0.5, 0.05), 2), ((0.05, 0.05), 1)])
def test_the_saved_step_counts_towards_a_collapse_as_without_a_resume(
    entropies: tuple[float, float], since: int | None, verl: type[Recorded], tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, entropy_min=0.1, steps=3)
    record_step(trainer, train_step(trainer, **{"actor/entropy": entropies[0]}))
    train_step(trainer, **{"actor/entropy": entropies[1]})
    trainer._save_checkpoint()
    assert resume_trainer(tmp_path, 2, entropy_min=0.1, steps=3).collapse.since == since


def test_a_baselines_checkpoint_has_no_p_to_restore(verl: type[Recorded], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    train_step(trainer)
    trainer.p = None
    trainer._save_checkpoint()
    resumed = resume_trainer(tmp_path, 1)
    train_step(resumed)
    assert resumed.p is not None and resumed.p.p == 1.0, "step 2 of the schedule"


def test_a_metric_that_cannot_be_had_is_no_failed_save(
    verl: type[Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(batch: Any, metrics: Any) -> dict[str, float]:
        raise RuntimeError("the transfer queue")

    trainer = make_trainer(tmp_path)
    train_step(trainer)
    monkeypatch.setattr(trainer_module, "further_metrics", fail)
    with pytest.raises(RuntimeError, match="the transfer queue"):
        trainer._save_checkpoint()


def resumed_at_a_validation(tmp_path: Path) -> HolderTrainerSync:
    """Step 2 is saved, and the run ends before its validation."""
    trainer = make_trainer(tmp_path)
    record_step(trainer, train_step(trainer))
    train_step(trainer, reward=0.5)
    trainer._save_checkpoint()
    return resume_trainer(tmp_path, 2)


def test_a_validation_that_the_restored_step_lacks_is_made_up_for_once(verl: type[Recorded], tmp_path: Path) -> None:
    resumed = resumed_at_a_validation(tmp_path)
    assert resumed.record.lacks_line
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    for _ in range(2):  # the second is not of this step: it must not be recorded again
        resumed._validate()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert (lines[1]["reward"], lines[1]["val-core/sums/acc/mean@1"]) == (0.5, 0.25)
    record_step(resumed, train_step(resumed))
    assert not resumed.record.lacks_line


def test_the_validation_before_the_first_step_is_step_0(verl: type[Recorded], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer._validate()
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert line["step"] == 0 and line["val-core/sums/acc/mean@1"] == 0.25


@pytest.mark.parametrize("how", ["verl raises", "a rank says so", "a shard is missing"])
def test_a_failed_save_is_undone_and_the_run_continues(how: str, verl: type[Recorded], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    train_step(trainer)
    trainer._save_checkpoint()
    metrics = train_step(trainer)
    verl.save_fails = how == "verl raises"
    if how == "a rank says so":
        trainer.actor_rollout_wg = SimpleNamespace(
            saved_part=lambda: [SavedPart(), SavedPart(error="OSError: disk full")]
        )
    if how == "a shard is missing":
        trainer.config.trainer.nnodes = 2
    trainer._save_checkpoint()
    assert metrics["checkpoint/failed"] == 1.0 and verl.saves == 2
    assert folders(tmp_path) == ["global_step_1"]
    assert read_manifest(tmp_path / "checkpoints/global_step_1")["step"] == 1


@pytest.mark.parametrize("why", ["the last step", "SIGTERM"])
def test_a_failed_save_that_nothing_would_make_up_for_is_an_error(
    why: str, verl: type[Recorded], tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, step=TOTAL - 1 if why == "the last step" else 1)
    train_step(trainer)
    verl.save_fails = True
    if why == "SIGTERM":
        (tmp_path / STOP_REQUEST).touch()
    with pytest.raises(RuntimeError, match="PytorchStreamWriter"):
        trainer._save_checkpoint()


def test_saves_and_validations_are_phases_of_the_step_in_progress(
    verl: type[Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, seen = make_trainer(tmp_path), list[str]()
    verls_save = PPOTrainer._save_checkpoint

    def note(phase_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def noted(self: Any) -> Any:
            seen.append(trainer.progress.status().phase)
            return phase_of(self)

        return noted

    monkeypatch.setattr(PPOTrainer, "_save_checkpoint", note(verls_save))
    monkeypatch.setattr(PPOTrainer, "_validate", note(lambda self: {}))
    train_step(trainer)
    trainer._save_checkpoint()
    trainer._validate()
    assert seen == ["save_checkpoint", "testing"]


def test_sigterm_saves_the_step_in_progress_and_stops(
    verl: type[Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path)

    def step(self: HolderTrainerSync, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        metrics.update(train_step(self, begun=True))
        return self._trained[0]

    monkeypatch.setattr(PPOTrainer, "step", step)
    trainer.global_steps = 1
    trainer.step({}, {})
    (tmp_path / STOP_REQUEST).touch()
    trainer.global_steps = 2
    with pytest.raises(Stopped, match="stopped at step 2"):
        trainer.step({}, {})
    assert trainer.progress.status().step == 2
    assert verl.saves == 1 and read_manifest(tmp_path / "checkpoints/global_step_2")["step"] == 2
    trainer.global_steps = TOTAL
    trainer.step({}, {})  # the last step: it ends by itself
    assert verl.saves == 1


def test_older_checkpoints_are_pruned(verl: type[Recorded], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    for _ in range(4):
        train_step(trainer)
        trainer._save_checkpoint()
    assert folders(tmp_path) == ["global_step_3", "global_step_4"]


class Ranks:
    """Two ranks, the second of which writes for a while."""

    def __init__(self, last: SavedPart) -> None:
        self.written, self.last = threading.Event(), last

    def saved_part(self) -> list[SavedPart | None]:
        return [SavedPart(copied=False), self.last if self.written.is_set() else None]


Saving = Callable[[SavedPart], tuple[HolderTrainerSync, Ranks]]


@pytest.fixture
def saving(verl: type[Recorded], tmp_path: Path) -> Iterator[Saving]:
    """A trainer that has begun to save step 1, of which the second rank is to write this."""
    all_ranks = list[Ranks]()

    def begin(last: SavedPart) -> tuple[HolderTrainerSync, Ranks]:
        trainer, ranks = make_trainer(tmp_path, in_background=True), Ranks(last)
        all_ranks.append(ranks)
        trainer.actor_rollout_wg = ranks
        metrics = train_step(trainer)
        trainer._save_checkpoint()
        record_step(trainer, metrics)
        return trainer, ranks

    yield begin
    for ranks in all_ranks:
        ranks.written.set()  # or the thread that waits for them would not end


def test_training_goes_on_while_a_checkpoint_is_written(saving: Saving, tmp_path: Path) -> None:
    trainer, ranks = saving(SavedPart())
    assert not committed(tmp_path / "checkpoints/global_step_1")
    trainer._finish_save(wait=False)
    record_step(trainer, train_step(trainer))
    assert trainer._saving is not None and not committed(tmp_path / "checkpoints/global_step_1")
    ranks.written.set()
    wait([trainer._saving[1]])
    assert read_manifest(tmp_path / "checkpoints/global_step_1")["state"]["p"]["step"] == 1, "as it was in step 1"
    assert (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").read_text() == "1"
    metrics, called = train_step(trainer), list[dict[str, Any]]()
    trainer.checkpoint_callback = SimpleNamespace(on_save=lambda **given: called.append(given))
    trainer._finish_save(wait=False)
    assert trainer._saving is None
    (call,) = called
    assert call["checkpoint_dir"] == str(tmp_path / "checkpoints/global_step_1") and call["async_save"] is False
    assert metrics["checkpoint/seconds"] > 0 and metrics["checkpoint/in_background"] == 0, "one rank had no memory"


def test_the_next_save_waits_for_the_one_before(saving: Saving, verl: type[Recorded], tmp_path: Path) -> None:
    trainer, ranks = saving(SavedPart())
    metrics = train_step(trainer)
    next_save = threading.Thread(target=trainer._save_checkpoint)
    next_save.start()
    while trainer.progress.status().phase != "save_checkpoint":
        time.sleep(0.01)
    assert verl.saves == 1
    ranks.written.set()
    next_save.join()
    assert verl.saves == 2 and metrics["checkpoint/step"] == 1
    trainer._finish_save()
    assert folders(tmp_path) == ["global_step_1", "global_step_2"]


@pytest.mark.parametrize("stopping", [False, True])
def test_a_save_that_fails_in_the_background_is_undone_and_noted(
    stopping: bool, saving: Saving, tmp_path: Path
) -> None:
    """Also when the run is to stop: the step that is saved then is another one."""
    trainer, ranks = saving(SavedPart(error="OSError: disk full"))
    ranks.written.set()
    metrics = train_step(trainer)
    assert trainer._saving is not None
    wait([trainer._saving[1]])
    if stopping:
        (tmp_path / STOP_REQUEST).touch()
        trainer.actor_rollout_wg = SimpleNamespace(saved_part=lambda: [SavedPart()])
        trainer._save_checkpoint()
    trainer._finish_save()
    assert metrics["checkpoint/failed"] == 1.0
    assert folders(tmp_path) == ["global_step_2"] * stopping


@pytest.mark.parametrize("error", [Collapsed("entropy is 0", 2), RuntimeError("no sample came back"), None])
def test_a_run_that_ends_has_committed_what_it_saved(
    error: Exception | None, saving: Saving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint before a collapse is the one to go back to; that of an error is as good."""
    trainer, ranks = saving(SavedPart())
    trainer.record.resumed_at = 0
    trainer.config.trainer.val_only = False

    def fit(self: Any, agent_loop_manager: Any) -> None:
        train_step(trainer)
        threading.Timer(0.2, ranks.written.set).start()
        if error is not None:
            raise error

    monkeypatch.setattr(PPOTrainer, "fit", fit)
    with nullcontext() if error is None else pytest.raises(type(error), match=str(error.args[0])):
        trainer.fit(None)
    assert committed(tmp_path / "checkpoints/global_step_1")


def test_a_save_that_does_not_get_on_keeps_no_error_waiting(
    saving: Saving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a rank waits for the process that was lost. As long as something is written, it is waited for."""
    trainer, _ = saving(SavedPart())
    trainer.record.resumed_at = 0
    trainer.config.trainer.val_only = False
    monkeypatch.setattr(trainer_module, "SAVING_AFTER_ERROR_SECONDS", 0.5)
    monkeypatch.setattr(trainer_module, "POLL_AFTER_ERROR_SECONDS", 0.01)
    sizes = iter([1, 2, 3])
    asked = list[int]()

    def growing(folder: Path) -> int:
        asked.append(next(sizes, 3))
        return asked[-1]

    monkeypatch.setattr(trainer_module, "bytes_below", growing)

    def fit(self: Any, agent_loop_manager: Any) -> None:
        raise RuntimeError("the engine is lost")

    monkeypatch.setattr(PPOTrainer, "fit", fit)
    with pytest.raises(RuntimeError, match="the engine is lost"):
        trainer.fit(None)
    assert asked[:3] == [1, 2, 3] and trainer._saving is not None


def test_a_save_that_fails_does_not_hide_why_a_run_ends(
    saving: Saving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, ranks = saving(SavedPart(error="OSError: disk full"))
    trainer.record.resumed_at = 0
    trainer.config.trainer.val_only = False
    ranks.written.set()

    def fit(self: Any, agent_loop_manager: Any) -> None:
        (tmp_path / STOP_REQUEST).touch()
        raise Collapsed("entropy is 0", 2)

    monkeypatch.setattr(PPOTrainer, "fit", fit)
    with pytest.raises(Collapsed):
        trainer.fit(None)
    assert folders(tmp_path) == []


def test_a_save_that_verl_ends_early_is_undone_when_no_rank_writes_any_more(
    verl: type[Recorded], tmp_path: Path
) -> None:
    """verl writes files of its own after the ranks have begun."""
    trainer, ranks = make_trainer(tmp_path, in_background=True), Ranks(SavedPart())
    trainer.actor_rollout_wg = ranks
    metrics = train_step(trainer)
    verl.save_fails, late = True, tmp_path / "checkpoints/global_step_1/actor/late.pt"

    def write() -> None:
        late.write_bytes(b"weights")
        ranks.written.set()

    threading.Timer(0.2, write).start()
    trainer._save_checkpoint()
    assert metrics["checkpoint/failed"] == 1.0 and trainer._saving is None
    assert ranks.written.is_set() and folders(tmp_path) == []


def test_the_rule_of_p_sees_the_metrics_of_every_step_before_it_is_saved(
    verl: type[Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, seen = make_trainer(tmp_path), list[tuple[int, float]]()
    assert trainer.p is not None
    monkeypatch.setattr(trainer.p, "observe", lambda step, metrics: seen.append((step, metrics["actor/entropy"])))

    def step(self: HolderTrainerSync, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        metrics.update(train_step(self, begun=True))
        return self._trained[0]

    monkeypatch.setattr(PPOTrainer, "step", step)
    for trainer.global_steps in (1, 2):
        trainer.step({}, {})
    assert seen == [(1, 0.5), (2, 0.5)]


def test_the_rule_of_p_is_asked_in_every_step_also_while_only_a_critic_is_trained(
    verl: type[Recorded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(PPOTrainer, "step", lambda self, metrics, timing_raw: Batch())
    for trainer.global_steps in (1, 2):
        trainer.step({}, {})
    assert trainer.p is not None and (trainer.p.step, trainer.p.p) == (2, 1.0)


@pytest.mark.parametrize(("step", "due"), [(2, True), (3, False), (TOTAL, True)])
def test_a_validation_is_due_every_second_step_and_in_the_last(
    step: int, due: bool, verl: type[Recorded], tmp_path: Path
) -> None:
    assert make_trainer(tmp_path, step=step)._validation_due() is due
