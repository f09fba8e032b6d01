"""Rehearsals on the real stack: a preset that passes, and a reward function that only a run finds to be broken."""

from pathlib import Path

import pytest

from recipe.holderpo.rehearsal.rehearse import rehearse

pytestmark = pytest.mark.stack


def lines(said: str, first: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith(first)]


def test_a_preset_passes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Qwen3 with offload: packed, bfloat16, gradient checkpointing; trained, resumed, merged and evaluated."""
    given = ["hardware=gpu_offload", "task=math", "model=qwen3_8b_base", f"run_dir={tmp_path / 'run'}"]
    given += [
        "actor_rollout_ref.actor.ppo_mini_batch_size=64",
        "trainer.val_before_train=false",
    ]  # time: two updates a step
    status = rehearse(given)
    said = capfd.readouterr().out
    assert status == 0, said
    for part in (
        "model and data",
        "config",
        "training",
        "  sampling",
        "  update",
        "  checkpoint",
        "resume",
        "evaluation",
    ):
        assert [line.endswith(" ok") for line in lines(said, f"{part} ")] == [True], (part, said)
    (update,) = lines(said, "  update")
    assert "bfloat16, checkpointing=True, dynamic batches=True, offload=True" in update
    assert [line.split()[1] for line in lines(said, "step ")] == ["1:", "2:"]
    (planned,) = lines(said, "By the estimate")
    assert "on 4 GPUs of 80 GB" in planned


def test_a_reward_function_that_fails_on_an_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):\n"
        "    return {'score': 1 / extra_info['difficulty']}\n"
    )
    given = ["hardware=gpu", "task=math", "model=qwen2.5_math_1.5b", f"run_dir={tmp_path / 'run'}"]
    given += [f"reward.custom_reward_function.path={reward}", "reward.custom_reward_function.name=compute_score"]
    given += ["reward.custom_reward_function.reward_kwargs={}", *_data(tmp_path)]
    assert rehearse(given) == 1
    said = capfd.readouterr().out
    assert lines(said, "error: training: ")[1] == "error: training: KeyError: 'difficulty'", said
    assert not lines(said, "resume")


def _data(folder: Path) -> list[str]:
    from recipe.holderpo.rehearsal.stand_ins import make_data

    train, evaluation = make_data(folder / "data")
    return [f"data.train_files={train}", f"data.val_files={evaluation}"]
