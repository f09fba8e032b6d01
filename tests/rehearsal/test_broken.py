"""Configs that `--cfg job` prints as if they were right, and that a rehearsal finds before a cluster does.

tests/stack/test_rehearsal.py has one that only a run can find."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoConfig

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.data.build import DataSet, records
from recipe.holderpo.rehearsal.parts import errors_in
from recipe.holderpo.rehearsal.rehearse import rehearse

GIVEN = ("hardware=gpu_nx8", "task=math", "model=qwen3_8b_base")


def rehearsed(folder: Path, capfd: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    """Exit status, and the last line with an error."""
    status = rehearse([*GIVEN, f"run_dir={folder / 'run'}", *more])
    return status, [line for line in capfd.readouterr().out.splitlines() if line.startswith("error: ")][-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            [
                "actor_rollout_ref.actor.use_dynamic_bsz=false",
                "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
            ],
            "error: config: actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu is 32; allowed are the divisors of 16",
        ),
        (
            ["actor_rollout_ref.rollout.tensor_model_parallel_size=3"],
            "error: config: actor_rollout_ref.rollout.tensor_model_parallel_size is 3; allowed are the divisors of the 8",
        ),
        (["reward.custom_reward_function.name=score"], "error: config: reward.custom_reward_function.name is 'score'"),
        (["trainer.n_gpus_per_node=6"], "error: config: trainer.nnodes x n_gpus_per_node gives 6 data-parallel ranks"),
    ],
)
def test_sizes_and_names(more: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, error = rehearsed(tmp_path, capfd, *more)
    assert status == 1 and error.startswith(message), error


def test_a_template_that_leaves_out_the_prompt(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, error = rehearsed(tmp_path, capfd, "actor_rollout_ref.model.custom_chat_template=Hello")
    assert (
        status == 1
        and error.startswith("error: training: error: the chat template of ")
        and "leaves out what row 0" in error
    )


def test_rows_without_a_truth(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = records(DataSet("own", {}, [(f"What is {n}?", str(n)) for n in range(200)]), "train")
    rows[150]["reward_model"]["ground_truth"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    file = tmp_path / "train.parquet"
    status, error = rehearsed(tmp_path, capfd, f"data.train_files={file}", f"data.val_files={file}")
    assert status == 1 and "row 150 has no ground_truth" in error


def test_a_broken_model_is_a_line_of_the_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    given = ["model=custom", f"actor_rollout_ref.model.path={model}"]
    AutoConfig.for_model("qwen2").save_pretrained(model)
    status, error = rehearsed(tmp_path, capfd, *given)
    assert status == 1 and "whose tokenizer knows nothing of row 0" in error
    (model / "config.json").write_text('{"model_type": "unheard of"}')
    status, error = rehearsed(tmp_path, capfd, *given)
    assert status == 1 and error.startswith("error: model and data: ")


def test_the_nodes_of_the_command_count(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Over four nodes of eight a mini-batch of 128 responses gives each rank 4, so micro-batches of 8 are too large."""
    more = ["actor_rollout_ref.actor.use_dynamic_bsz=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8"]
    for nodes, allowed in ((4, "are the divisors of 4 "), (3, "are divisors of 128")):
        assert rehearse([*GIVEN, f"run_dir={tmp_path / 'run'}", f"trainer.nnodes={nodes}", *more], nodes) == 1
        assert allowed in capfd.readouterr().out
    status, error = rehearsed(tmp_path, capfd, "trainer.nnodes=2")
    assert status == 1 and error.startswith("error: config: trainer.nnodes is 2; allowed in a process of its own is 1")


def test_a_folder_with_signs_that_mean_something_to_hydra(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a(b), c=d é"
    folder.mkdir()
    given = "'" + str(folder / "run") + "'"
    assert rehearse([*GIVEN, f"run_dir={given}", "actor_rollout_ref.model.custom_chat_template=Hello"]) == 1
    assert "leaves out what row 0" in capfd.readouterr().out, "Hydra has read the overrides, and the model is found"


def test_what_cannot_be_rehearsed_is_one_line(tmp_path: Path) -> None:
    for more, message in (
        (["hardware=cpu"], "rehearse is true; allowed with trainer.device=cpu is false: that run needs no rehearsal"),
        (
            ["actor_rollout_ref.model.path=some/model", "model=custom"],
            "actor_rollout_ref.model.path is 'some/model'; allowed",
        ),
        (["hardware=tpu"], "tpu"),
        (
            ["actor_rollout_ref.model.path=Qwen/Qwen3-9B-Base"],
            "actor_rollout_ref.model.path is 'Qwen/Qwen3-9B-Base'; allowed",
        ),
        (["run_dir=/proc/none/run"], "run_dir is '/proc/none/"),
    ):
        with pytest.raises(ConfigError) as refused:
            rehearse([*GIVEN, f"run_dir={tmp_path / 'run'}", *more])
        assert message in refused.value.lines[0]
    assert not [*tmp_path.iterdir()], "nothing has been made"


def test_errors_are_found_in_what_workers_say() -> None:
    said = """step  0/2  acc 0.00
error: seed is -1; allowed is a whole number
\x1b[36m(AgentLoopWorkerTQ pid=6351)\x1b[0m ERROR:2026-11-28 15:22:15,742:Error in _run_prompt for uid=9602861f
\x1b[36m(AgentLoopWorkerTQ pid=6351)\x1b[0m ray.exceptions.RayTaskError(KeyError): \x1b[36mray::RewardLoopWorker.compute_score
\x1b[36m(AgentLoopWorkerTQ pid=6351)\x1b[0m KeyError: 'difficulty'
\x1b[36m(AgentLoopWorkerTQ pid=6352)\x1b[0m KeyError: 'difficulty'
    raise ValueError("Received an empty list as keys.")
ValueError: Received an empty list as keys.
torch.distributed.DistBackendError: NCCL error
AssertionError
no error here
"""
    assert errors_in(said) == [
        "error: seed is -1; allowed is a whole number",
        "KeyError: 'difficulty'",
        "ValueError: Received an empty list as keys.",
        "torch.distributed.DistBackendError: NCCL error",
        "AssertionError",
    ]
