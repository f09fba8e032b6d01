"""ALFWorld on the real stack, every step a sample; an environment worker is killed in mid-episode."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_injection import faults
from fault_injection.watched_run import Run

from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, save_model
from recipe.holderpo.fault_tolerance.signals import ExitStatus
from recipe.holderpo.tasks.alfworld.games import generate
from recipe.holderpo.tasks.alfworld.report import read_transcripts

pytestmark = pytest.mark.stack
STEPS = 3  # of the schedule; how many there are in all depends on when the lost worker is seen


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The smallest real run: an untrained model, 4 games x 4 episodes of 6 steps."""
    folder = tmp_path_factory.mktemp("alfworld")
    tokenizer = build_tokenizer()
    model = build_model(
        TinyModelConfig(hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2, max_length=1024), tokenizer, 1
    )
    (folder / "model").mkdir()
    save_model(model, tokenizer, folder / "model")
    generate(folder / "games", "tiny", {"train": 4, "valid_seen": 2, "valid_unseen": 2}, seed=1, processes=1)
    return [
        *("hardware=cpu", "task=alfworld_tiny", "model=alfworld_warm", "algo=holder_narrow", "embedded_model=null"),
        *(f"actor_rollout_ref.model.path={folder}/model", f"cache_dir={folder}/cache", f"games={folder}/games"),
        *(
            "alfworld.samples=step",
            "algorithm.adv_estimator=gigpo",
            "alfworld.max_steps=6",
            "alfworld.answer_tokens=8",
            "alfworld.step_timeout=3600",
            "env.OMP_NUM_THREADS=1",
        ),
        *("data.max_prompt_length=900", "data.max_response_length=8", "actor_rollout_ref.rollout.max_model_len=1024"),
        *("data.train_batch_size=4", "actor_rollout_ref.rollout.n=4", "actor_rollout_ref.rollout.val_kwargs.n=1"),
        *("trainer.total_training_steps=100000", f"holder.steps={STEPS}", f"trainer.test_freq={STEPS}"),
        *("trainer.val_before_train=false", "trainer.save_freq=1", "stop_grace_s=100000"),
    ]


def kill_one(title: str, run: Run) -> None:
    """SIGKILL a process of the run by Ray's name for it, as soon as there is one."""
    assert run.wait_until(lambda: bool(run.below(title)), every=0.05), run.said
    run.below(title)[0].kill()


def lost_worker(record: dict[str, float]) -> bool:
    return record["reward/environment_workers_lost"] > 0


def test_training_continues_after_a_kill_in_mid_episode(
    overrides: list[str], new_run: Callable[..., Run], tmp_path: Path
) -> None:
    games = next(o for o in overrides if o.startswith("games="))
    run = new_run(*(o for o in overrides if o != games))
    run.start({"ALFWORLD_DATA": games.removeprefix("games=")})
    assert run.wait_until(lambda: run.last_step() >= 1, every=0.05), run.said
    # step 2 begins: its episodes are being played
    kill_one("ray::EnvironmentHost", run)
    assert run.wait_until(lambda: run.last_step() >= STEPS and any(map(lost_worker, run.records()))), run.said
    faults.sigterm(run)()
    assert run.wait() == ExitStatus.STOPPED, run.said[-5000:]
    assert "restarts left" not in run.said
    records = run.records()
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    assert [record["holder/p"] for record in records] == [1.0, 0.0] + [-1.0] * (len(records) - 2)
    # every step of every episode is a sample: 4 games x 4 episodes x 6 steps, none of them a command
    assert records[0]["reward/steps"] == 6 and records[0]["reward/invalid_fraction"] == 1
    assert records[0]["critic/score/mean"] == pytest.approx(-0.1)
    assert any(map(lost_worker, records)) and all(record["reward/episodes_lost"] == 0 for record in records)
    assert records[STEPS - 1]["val-core/alfworld_valid_unseen/acc/mean@1"] == 0
    episodes = read_transcripts(run.run_dir)[STEPS]
    assert len(episodes) == 4 and all(len(episode["steps"]) == 6 for episode in episodes)
    assert run.left_over() == []
