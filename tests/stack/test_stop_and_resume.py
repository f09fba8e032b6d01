"""A deterministic run that is stopped, resumed, and restarted from an earlier checkpoint, so that it trains some steps twice.

1. The first start gets SIGTERM in step 4, and has to save that step: status 75.
2. The second resumes from it. In step 6 its checkpoints after step 2 are damaged and its rollout server is killed.
3. So it restarts by itself from step 2 and trains steps 3 to 6 again. In step 7 its engine is frozen.
4. It finds that out, restarts from step 6 and ends normally.

`PYTHONPATH=tests python -m fault_injection.faults` does worse things to a run."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from fault_injection import faults
from fault_injection.any_reward import reached
from fault_injection.faults import STEPS
from fault_injection.watched_run import ROOT, Run, differences

from recipe.holderpo.fault_tolerance.signals import STOP_REQUEST
from recipe.holderpo.report.events import read_events
from recipe.holderpo.report.page.write import PAGE_FILE

pytestmark = pytest.mark.stack

Records = list[dict[str, float]]

SAMPLES = 32  # in a step
STOPPED, RESTARTED_FROM, KILLED, FROZEN = 4, 2, 6, 7
STATE = ("model", "optim")


@dataclass
class Story:
    run: Run
    statuses: list[int]
    """Of the command, in its two starts."""
    records: list[Records]
    """When it had been stopped, when its server was killed, and at the end."""
    said: list[str]
    """What it had printed by then."""
    saved: Path
    """The checkpoints as they were before they were damaged."""


@pytest.fixture(scope="module")
def story(new_run: Callable[..., Run], small_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    gate, saved = folder / "gate", folder / "saved"
    run = new_run(
        *small_overrides, *faults.SETTINGS, "trainer.save_freq=1", "keep_checkpoints=10", "trainer.test_freq=2",
        "data.val_max_samples=32", "stop_grace_s=100000", "stall.floor_s=60", "logger=wandb", "+env.WANDB_MODE=offline",
        f"+reward.custom_reward_function.reward_kwargs.gate={gate}",
    )  # fmt: skip
    told = Story(run, [], [], [], saved)

    def note() -> None:
        told.records.append(run.records())
        told.said.append(run.said)

    start_until_half_of_step(run, gate, STOPPED, since=0)
    faults.sigterm(run)()
    assert run.wait_until((run.run_dir / STOP_REQUEST).exists), run.said
    gate.unlink()
    told.statuses.append(run.wait())
    note()

    start_until_half_of_step(run, gate, KILLED, since=STOPPED)
    assert run.wait_until(lambda: run.has_saved(KILLED - 1)), run.said
    shutil.copytree(run.run_dir / "checkpoints", saved)
    note()
    for damage, step in ((faults.truncate, 5), (faults.flip_bit, 4), (faults.remove_model, 3)):
        damage(run.run_dir / "checkpoints" / f"global_step_{step}")
    faults.kill("ray::vLLMHttpServer", run)()
    close(gate, FROZEN, since=RESTARTED_FROM)
    assert run.wait_until(lambda: "restarts left: 1" in run.said), run.said
    reached(gate).unlink(missing_ok=True)  # by those that were killed
    assert run.wait_until(lambda: reached(gate).exists() and run.has_saved(FROZEN - 1)), run.said
    faults.freeze("VLLM::EngineCore", run)()
    gate.unlink()
    told.statuses.append(run.wait())
    note()
    return told


def start_until_half_of_step(run: Run, gate: Path, step: int, since: int) -> None:
    """Start the command, which goes on from step `since`, and return when half of the step's samples have their rewards and
    the others wait for `gate` to be deleted."""
    close(gate, step, since)
    run.start()
    assert run.wait_until(reached(gate).exists), run.said


def close(gate: Path, step: int, since: int) -> None:
    """From half of the step's samples on, counted from the start of what grades them."""
    reached(gate).unlink(missing_ok=True)
    gate.write_text(str((step - since - 1) * SAMPLES + SAMPLES // 2))


def test_sigterm_saves_the_step_and_ends_with_status_75(story: Story) -> None:
    assert story.statuses == [75, 0]
    assert f"stopped at step {STOPPED}" in story.said[0] and "to resume from the last checkpoint: " in story.said[0]
    assert [r["step"] for r in story.records[0]] == [1, 2, 3], "step 4 was not validated"


def test_the_same_command_resumes_from_the_stopped_step(story: Story) -> None:
    """Its line is made up for: once, with the metrics of its training and of the validation that it did not come to."""
    assert faults.steps_lost(story.said[1], recorded=STOPPED) == 0
    assert [r["step"] for r in story.records[1]] == [1, 2, 3, 4, 5]
    line = story.records[1][STOPPED - 1]
    assert {
        "holder/p",
        "actor/grad_norm",
        "group/zero_variance_fraction",
        "val-core/arithmetic/acc/mean@8",
    } <= line.keys()


def test_a_lost_server_is_a_restart_from_the_newest_checkpoint_that_is_whole(story: Story) -> None:
    since, _, _ = story.said[2].removeprefix(story.said[1]).partition("stuck: ")
    assert "lost a process" in since and "restarts left: 1" in since
    for step in (5, 4, 3):
        assert re.search(rf"global_step_{step}: model_world_size_1_rank_0\.pt ", since), since
    assert faults.steps_lost(since, recorded=5) == 5 - RESTARTED_FROM
    assert [r["step"] for r in story.records[2]] == list(range(1, STEPS + 1))


def test_a_frozen_engine_is_noticed_named_and_a_restart(story: Story) -> None:
    _, _, since = story.said[2].partition("stuck: ")
    line = since.splitlines()[0]
    # In the weights' update where all samples had been generated when half of them had their rewards.
    assert re.match(
        rf"step {FROZEN} has made no progress for \d+ s in (gen|update_weights), which otherwise takes ", line
    ), line
    assert re.search(r"; VLLM::EngineCore \(process \d+, stopped\); stacks: (\S+); restarts left: 0$", line), line
    assert faults.steps_lost(since, recorded=FROZEN - 1) == 0
    (report,) = (story.run.run_dir / "stalls").glob("*/*.txt")
    assert re.search(r"trainer_base\.py\", line \d+ in fit", report.read_text()), "where the trainer waits"


def test_what_happened_is_on_the_page_that_the_run_leaves(story: Story) -> None:
    events = read_events(story.run.run_dir)
    assert [event.step for event in events[:2]] == [STOPPED, RESTARTED_FROM]
    assert events[2].step in (FROZEN - 1, FROZEN), "the step's own checkpoint may have been complete"
    resumed, lost, stuck = (event.text for event in events)
    assert resumed == f"resumed from step {STOPPED}"
    assert lost.startswith("lost a process (") and lost.endswith(f"; went on from step {RESTARTED_FROM}")
    assert stuck.startswith(f"stuck: step {FROZEN} ")
    (media,) = story.run.run_dir.glob("wandb/offline-run-*/files/media/html/report_*.html")
    assert "HölderPO: runs" in media.read_text(), "Weights & Biases has it, too"
    assert "HölderPO: runs" in (story.run.run_dir / PAGE_FILE).read_text()


def test_steps_that_were_trained_twice_are_the_same(story: Story) -> None:
    """p, learning rate, data order, texts, metrics, weights and optimiser state: of step 3, trained without any disturbance
    and after a resume from step 2; of step 4, likewise, saved after SIGTERM and regularly; and of step 5, after a resume
    from the checkpoint that SIGTERM had left and in one go from step 2."""
    undisturbed, resumed, last = story.records
    assert differences(undisturbed, last[:3]) == [] and differences(resumed, last[:5]) == []
    for expected, got in zip(resumed, last[:5], strict=True):
        assert got["holder/p"] == expected["holder/p"] and got["actor/lr"] == expected["actor/lr"]
        for key in expected:
            if "/acc/mean@" in key:  # verl's best@n is a bootstrap with a random seed
                assert got[key] == pytest.approx(expected[key], abs=1e-9), key
    for step in (3, 4, 5):
        for part in STATE:
            name = f"global_step_{step}/actor/{part}_world_size_1_rank_0.pt"
            a, b = (
                torch.load(root / name, weights_only=False) for root in (story.saved, story.run.run_dir / "checkpoints")
            )
            _assert_same(a, b, f"{part} of step {step}")


def test_the_weights_move_from_step_to_step(story: Story) -> None:
    """Or those above would be the same whatever happened."""
    for part in STATE:
        name = f"actor/{part}_world_size_1_rank_0.pt"
        a, b = (torch.load(story.saved / f"global_step_{step}" / name, weights_only=False) for step in (4, 5))
        with pytest.raises(AssertionError):
            _assert_same(a, b, part)


def _assert_same(expected: object, got: object, where: str) -> None:
    if isinstance(expected, torch.Tensor):
        assert isinstance(got, torch.Tensor)
        a, b = (t.full_tensor() if hasattr(t, "full_tensor") else t for t in (expected, got))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda message: f"{where}: {message}")
    elif isinstance(expected, dict):
        assert isinstance(got, dict) and expected.keys() == got.keys(), where
        for key in expected:
            _assert_same(expected[key], got[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert isinstance(got, list | tuple) and len(expected) == len(got), where
        for i, (a, b) in enumerate(zip(expected, got, strict=True)):
            _assert_same(a, b, f"{where}[{i}]")
    else:
        assert expected == got, where


def test_p_is_that_of_the_schedule_in_every_step(story: Story) -> None:
    for records in story.records:
        scheduled = [2 - 4 * i / (STEPS - 1) for i in range(len(records))]
        assert [r["holder/p"] for r in records] == pytest.approx(scheduled, abs=1e-12)
    assert story.records[-1][0]["holder/p"] == 2.0 and story.records[-1][-1]["holder/p"] == -2.0  # exactly


def test_every_key_of_the_record_is_documented(story: Story) -> None:
    documented = []
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        if line.startswith("| `"):
            names = re.findall(r"`([^`]+)`", line.split(" | ")[0])
            # `x_max`, `_mean` and `x` (`/min`) name x_mean and x/min
            stems = [names[0].rsplit("_", 1)[0] if n.startswith("_") else names[0].rsplit("/", 1)[0] for n in names]
            documented += [s + n if n.startswith(("_", "/")) else n for s, n in zip(stems, names, strict=True)]
    keys = {key for records in story.records for record in records for key in record}
    assert {"step", "holder/p", "val-core/arithmetic/acc/mean@8", "val-core/arithmetic_greedy/acc/mean@1"} <= keys
    patterns = [re.sub(r"<[^>]+>", "*", name).replace("@n", "@*").replace("...", "*") for name in documented]
    assert [key for key in sorted(keys) if not any(fnmatchcase(key, p) for p in patterns)] == []


def test_every_rollout_comes_from_exactly_the_trainers_weights(story: Story) -> None:
    """vLLM's probabilities of the tokens it sampled against the trainer's, after up to five updates at a high rate."""
    records = [record for records in story.records for record in records]
    for record in records:
        assert record["training/rollout_probs_diff_max"] < 1e-6, f"step {record['step']}"
    moved = max(record["holder/log_ratio_max"] for record in records)
    assert moved > 1e-2, "the weights must have moved by far more than the difference allowed"


def test_nothing_is_left_over(story: Story) -> None:
    assert story.run.left_over() == []
