"""How the command ends: its exit status, and the line that says how to resume."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from omegaconf import DictConfig, OmegaConf

from recipe.holderpo import main
from recipe.holderpo.fault_tolerance import restart
from recipe.holderpo.fault_tolerance.checkpoint import commit, step_folder, step_folders
from recipe.holderpo.fault_tolerance.collapse import Collapsed, NotFinite
from recipe.holderpo.fault_tolerance.command import COMMAND_VARIABLE, how_to_resume
from recipe.holderpo.fault_tolerance.signals import Stopped
from recipe.holderpo.fault_tolerance.stalls import Stalled
from recipe.holderpo.report.events import note_event, read_events


def config(tmp_path: Path, nodes: int = 1) -> DictConfig:
    made = OmegaConf.create(
        {
            "run": "r",
            "run_dir": str(tmp_path),
            "stop_grace_s": 60,
            "trainer": {"nnodes": nodes, "default_local_dir": str(tmp_path / "checkpoints")},
            "guard": {},
        }
    )
    assert isinstance(made, DictConfig)
    return made


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Collapsed("entropy is 0, below 0.1", 7), 3, "error: entropy is 0, below 0.1 (guard in the config"),
        (NotFinite("the update of step 7 was not finite"), 3, "error: the update of step 7 was not finite"),
        (Stopped("stopped at step 7"), 75, "stopped at step 7, and saved; to resume from the last checkpoint: "),
        (Stalled("stuck: step 7 has made no progress"), 1, "error: stuck: step 7 has made no progress\n"),
        (Stalled("stuck: step 7", stopping=True), 75, "error: stuck: step 7, and not saved\n"),
        (RuntimeError("ray.exceptions.ActorDiedError: dead"), 1, "error: lost a process (ActorDiedError); "),
        (KeyboardInterrupt(), 130, "stopped; to resume from the last checkpoint: "),
    ],
)
def test_every_end_has_its_exit_status(
    error: BaseException,
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    shut_down = []
    monkeypatch.setattr(restart, "with_restarts", fail)
    monkeypatch.setattr(ray, "shutdown", lambda: shut_down.append(True))
    with pytest.raises(SystemExit) as ended:
        main.train_and_report(config(tmp_path), None)
    assert ended.value.code == status and shut_down
    output = capsys.readouterr()
    assert said in output.out + output.err


def test_ctrl_c_leaves_no_half_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    whole, half = (step_folder(tmp_path / "checkpoints", step) / "actor" for step in (1, 2))
    for folder in (whole, half):
        folder.mkdir(parents=True)
        (folder / "model.pt").touch()
    commit(whole.parent, {})
    monkeypatch.setattr(restart, "with_restarts", interrupt)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(SystemExit):
        main.train_and_report(config(tmp_path), None)
    assert step_folders(tmp_path / "checkpoints") == [whole.parent] and (whole / "model.pt").exists()


def test_a_run_that_begins_again_has_nothing_of_an_earlier_one_on_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object) -> None:
        assert [*read_events(tmp_path)] == [] and not (tmp_path / "tokens").exists()
        raise Stopped("stopped")

    note_event(tmp_path, 3, "resumed from step 3")
    (tmp_path / "tokens").mkdir()
    monkeypatch.setattr(restart, "with_restarts", check)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(SystemExit):
        main.train_and_report(config(tmp_path), None)


def test_another_error_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("of verl's")

    monkeypatch.setattr(restart, "with_restarts", fail)
    with pytest.raises(ValueError, match="of verl's"):
        main.train_and_report(config(tmp_path), None)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("holder.p_start=1,2", "Ambiguous value for argument 'holder.p_start=1,2' 1. To"),
        ("nonsense=1", "Could not override 'nonsense'. To append"),
        ("task=null", "Config group override must be a string or a list. Got NoneType"),
        ("task=nope", "In 'holderpo': Could not find 'task/nope' Available options"),
        ("run_dir=/dev/null/x", "run_dir is '/dev/null/x', which cannot be written (Not a directory: /dev/null)"),
    ],
)
def test_what_cannot_be_run_is_one_line(override: str, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipe.holderpo.main", f"run_dir={tmp_path}/r", override]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"error: {said}")
    assert [*tmp_path.iterdir()] == []


TYPED = "bash scripts/run_qwen_math.sh run=old 'data.val_files=[a, b]' algo=grpo"


def test_the_command_that_resumes_is_the_one_that_was_typed(tmp_path: Path) -> None:
    arguments = ["main.py", "run=old", "algo=grpo"]
    typed = how_to_resume(config(tmp_path), arguments, {COMMAND_VARIABLE: TYPED})
    words = shlex.split(typed.split(": ", 1)[1])
    assert words == ["bash", "scripts/run_qwen_math.sh", "data.val_files=[a, b]", "algo=grpo", "run=r"]
    assert how_to_resume(config(tmp_path), arguments, {}).endswith(": python -m recipe.holderpo.main algo=grpo run=r")


def test_on_several_nodes_every_node_runs_its_command_again(tmp_path: Path) -> None:
    line = how_to_resume(config(tmp_path, nodes=2), [], {COMMAND_VARIABLE: TYPED})
    assert line == "to resume from the last checkpoint: the same command on every node, with run=r"
