"""ALFWorld on the real stack, every step a sample; an environment worker and the rollout server are killed in mid-episode."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, save_model
from recipe.holderpo.report.record import read_metrics
from recipe.holderpo.tasks.alfworld.games import generate
from recipe.holderpo.tasks.alfworld.report import read_transcripts

pytestmark = pytest.mark.stack
ROOT = Path(__file__).parents[2]
STEPS = 3


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
    generate(folder / "games", "tiny", {"train": 12, "valid_seen": 2, "valid_unseen": 2}, seed=1, processes=2)
    return [
        *("hardware=cpu", "task=alfworld_tiny", "model=alfworld_warm", "algo=holder_narrow", "embedded_model=null"),
        *(f"actor_rollout_ref.model.path={folder}/model", f"cache_dir={folder}/cache", f"games={folder}/games"),
        *(
            "alfworld.samples=step",
            "algorithm.adv_estimator=step_grpo",
            "alfworld.max_steps=6",
            "alfworld.answer_tokens=8",
        ),
        *("data.max_prompt_length=900", "data.max_response_length=8", "actor_rollout_ref.rollout.max_model_len=1024"),
        *("data.train_batch_size=4", "actor_rollout_ref.rollout.n=4", "actor_rollout_ref.rollout.val_kwargs.n=1"),
        *(f"trainer.total_training_steps={STEPS}", f"trainer.test_freq={STEPS}"),
        *("trainer.val_before_train=false", "trainer.save_freq=1"),
    ]


def kill_one(name: str, main: psutil.Process) -> None:
    """SIGKILL a process of this run by Ray's name for it, as soon as there is one."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        found = [p for p in main.children(recursive=True) if name in " ".join(p.cmdline())]
        if found:
            os.kill(found[0].pid, signal.SIGKILL)
            return
        time.sleep(0.05)
    raise AssertionError(f"no process {name}: {[p.cmdline()[:1] for p in main.children(recursive=True)]}")


def test_training_goes_on_after_kills_in_mid_episode(overrides: list[str], tmp_path: Path) -> None:
    games, rest = (
        next(o for o in overrides if o.startswith("games=")),
        [o for o in overrides if not o.startswith("games=")],
    )
    environment = dict(os.environ) | {"ALFWORLD_DATA": games.removeprefix("games=")}
    command = [sys.executable, "-m", "recipe.holderpo.main", *rest, f"run_dir={tmp_path}/run", "run=kills"]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    main, metrics = psutil.Process(run.pid), tmp_path / "run/metrics.jsonl"
    try:
        end = time.monotonic() + 400
        while time.monotonic() < end and run.poll() is None and not (metrics.exists() and read_metrics(metrics)):
            time.sleep(0.05)
        assert run.poll() is None, (tmp_path / "log").read_text()[-3000:]
        # step 2 begins: its episodes are being played
        kill_one("ray::EnvironmentHost", main)
        while run.poll() is None and len(read_metrics(metrics)) < 2:
            time.sleep(0.05)
        time.sleep(0.5)
        kill_one("ray::vLLMHttpServer", main)
        assert run.wait(timeout=400) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        if run.poll() is None:
            run.kill()
    text = (tmp_path / "log").read_text()
    assert "lost a process (ActorDiedError)" in text and "restarts left: 1" in text
    records = read_metrics(metrics)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert [record["holder/p"] for record in records] == [1.0, 0.0, -1.0]
    # every step of every episode is a sample: 4 games x 4 episodes x 6 steps, none of them a command
    assert records[0]["reward/steps"] == 6 and records[0]["reward/invalid_fraction"] == 1
    assert records[0]["critic/score/mean"] == pytest.approx(-0.1)
    assert records[1]["reward/environment_workers_lost"] >= 1 and records[1]["reward/episodes_lost"] == 0
    assert records[-1]["val-core/alfworld_valid_unseen/acc/mean@1"] == 0
    episodes = read_transcripts(tmp_path / "run")[STEPS]
    assert len(episodes) == 4 and all(len(episode["steps"]) == 6 for episode in episodes)
