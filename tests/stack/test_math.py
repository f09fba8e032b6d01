"""The mathematical task for real, with a baseline's loss: looked at while it trains, interrupted by Ctrl-C, evaluated.

The data builder's files, the grader, its metrics; who can reach the run, what it tells, what it leaves; the merge of its
checkpoint, and an evaluation of that which is killed in the middle.
"""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from fault_injection.watched_run import ROOT, Run, environment
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipe.holderpo.data.__main__ import main as build_data
from recipe.holderpo.embedded.tiny_model import TinyModelConfig, save_model
from recipe.holderpo.fault_tolerance.checkpoint import MANIFEST, step_of
from recipe.holderpo.fault_tolerance.signals import ExitStatus
from recipe.holderpo.tasks.arithmetic.pretrain import PretrainConfig, pretrain
from recipe.holderpo.tasks.arithmetic.problems import train_val_problems

pytestmark = pytest.mark.stack

LOOPBACK = re.compile(r"127\.|::1$")
WILDCARD = ("0.0.0.0", "::")
RESPONSE_TOKENS = 12
SAVED_STEP = 2
HELD_OUT = 24


@dataclass
class Looked:
    """What was seen of a run that was interrupted after its second step."""

    run: Run
    base_model: Path
    data: Path
    planted: dict[str, str]
    temporary_texts: dict[Path, bytes]
    """Ray's session and whatever else was in the run's temporary folder while it lived."""
    listening: list[tuple[str, int, str]]
    """Address, port and process of every socket that was listened on."""
    strangers: dict[str, "subprocess.CompletedProcess[str]"]
    status: int


def learnt_model(folder: Path) -> Path:
    """A model that boxes numbers, some of which are right."""
    model, tokenizer, _ = pretrain(
        PretrainConfig(
            TinyModelConfig(hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2), steps=400, batch_size=128
        )
    )
    folder.mkdir()
    save_model(model, tokenizer, folder)
    return folder


def problem_files(folder: Path) -> Path:
    """Sums, by the data builder, from the two forms of files that it reads."""
    train, val = train_val_problems()
    lines = {
        "sums": [{"question": p.question, "answer": f"#### {p.answer}"} for p in train[:200]],
        "held": [{"problem": p.question, "answer": f"['{p.answer}\n']"} for p in val[:HELD_OUT]],
    }
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_data(["--train", f"{folder}/sums.jsonl", "--eval", f"{folder}/held.jsonl", "--out", f"{folder}/data"])
    return folder / "data"


@pytest.fixture(scope="module")
def looked(
    new_run: Callable[..., Run], small_overrides: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Looked]:
    folder = tmp_path_factory.mktemp("math")
    base_model, data = learnt_model(folder / "model"), problem_files(folder)
    run = new_run(
        *small_overrides, "task=math", "algo=dapo", "template=model",
        "trainer.total_training_steps=1000",
        f"trainer.save_freq={SAVED_STEP}", f"trainer.test_freq={SAVED_STEP}", "logger=wandb",
        f"data.train_files={data}/train.parquet", f"data.val_files=[{data}/eval_held.parquet]",
        f"data.max_response_length={RESPONSE_TOKENS}", "data.max_prompt_length=48",
        "actor_rollout_ref.rollout.max_model_len=64", f"actor_rollout_ref.model.path={base_model}",
        "actor_rollout_ref.actor.optim.lr=1e-3", "data.train_batch_size=16", "actor_rollout_ref.rollout.n=8",
        "reward.custom_reward_function.path=pkg://recipe.holderpo.rewards.math",  # the small run's own comes first
        f"trainer.rollout_data_dir={folder}/rollouts", "report.tokens_every=1", "report.token_groups=16",
    )  # fmt: skip
    planted = {
        "WANDB_API_KEY": secrets.token_hex(20),
        "HF_TOKEN": "hf_" + secrets.token_hex(17),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    run.start(planted | {"WANDB_MODE": "offline"})
    assert run.wait_until(lambda: run.last_step() > SAVED_STEP and run.has_saved(SAVED_STEP)), run.said
    (temporary,) = run.base.glob("holderpo-*")
    assert temporary.stat().st_mode & 0o777 == 0o700
    texts = {path: path.read_bytes() for path in temporary.rglob("*") if path.is_file()}
    listening = [
        (connection.laddr.ip, connection.laddr.port, " ".join(process.cmdline()))
        for process in run.below("")
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    gcs_port = next(port for _, port, command in listening if "gcs_server" in command)
    own_address = next(ip for ip, _, command in listening if "vLLMHttpServer" in command and ip not in WILDCARD)
    tokens = {"its token": planted["RAY_AUTH_TOKEN"], "another": "f" * 64}
    strangers = {
        name: subprocess.run(
            [str(Path(sys.executable).with_name("ray")), "status", f"--address={own_address}:{gcs_port}"],
            env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}, capture_output=True, text=True, check=False,
        )
        for name, token in tokens.items()
    }  # fmt: skip
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    status = run.wait()
    yield Looked(run, base_model, data, planted, texts, listening, strangers, status)


def graded_by_hand(output: str, truth: str) -> float:
    """1 for an answer in a box that is closed and is the truth; independent of the grader, for whole numbers."""
    boxes = re.findall(r"\\boxed\{(-?\d+)\}", output)
    return float(bool(boxes) and int(boxes[-1]) == int(truth))


def test_rewards_are_those_of_the_responses(looked: Looked) -> None:
    folder = looked.data.parent / "rollouts"
    right = 0.0
    for record in looked.run.records()[:SAVED_STEP]:
        rows = [json.loads(line) for line in (folder / f"{int(record['step'])}.jsonl").read_text().splitlines()]
        assert len(rows) == 128 and all(re.search(r"\d[+-]\d[+-]\d", row["input"]) for row in rows)
        # A token is a byte, so a text of ASCII alone shows whether its response filled the limit.
        plain = [row for row in rows if row["output"].isascii()]
        cut = [len(row["output"]) == RESPONSE_TOKENS for row in plain]
        by_hand = [graded_by_hand(row["output"], row["gts"]) * (not c) for row, c in zip(plain, cut, strict=True)]
        assert [row["score"] for row in plain] == by_hand
        assert record["critic/score/mean"] == pytest.approx(sum(row["score"] for row in rows) / len(rows))
        assert sum(cut) <= record["reward/truncated"] * len(rows) + 1e-6 <= sum(cut) + len(rows) - len(plain) + 2e-6
        assert record["reward/timeout"] == record["reward/crash"] == 0.0
        assert record["response_length/max"] <= RESPONSE_TOKENS
        right += sum(by_hand)
    assert right > 0, "or it shows nothing"


def test_it_was_trained_with_a_baseline_of_verls(looked: Looked) -> None:
    """DAPO: groups without a signal are replaced. The other presets differ from it and the Hölder loss in numbers."""
    records = looked.run.records()
    assert len(records) >= SAVED_STEP and all("holder/p" not in record for record in records)
    assert all(record["actor/grad_norm"] > 0 for record in records)
    assert all(record["group/zero_variance_fraction"] == 0 for record in records)


def test_kept_tokens_are_those_of_the_rollouts_under_the_updated_weights(looked: Looked) -> None:
    """Of all groups here. The log-probabilities are computed again, by transformers, with the weights that the step saved."""
    lines = (looked.run.run_dir / "tokens" / f"{SAVED_STEP}.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    rows = (looked.data.parent / "rollouts" / f"{SAVED_STEP}.jsonl").read_text().splitlines()
    rollouts = sorted((row["input"], row["output"], row["score"]) for row in map(json.loads, rows))
    plain = [one for one in kept if "".join(one["tokens"]).isascii()]
    texts = [(one["prompt"], "".join(one["tokens"]), one["reward"]) for one in plain]
    assert len(kept) == len(rollouts) == 128 and len(plain) > 30
    tokenizer = AutoTokenizer.from_pretrained(looked.base_model)
    assert {tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) for _, text, _ in texts} <= {
        output for _, output, _ in rollouts
    }
    model = AutoModelForCausalLM.from_pretrained(looked.base_model, dtype=torch.float32)
    folder = next(folder for folder in looked.run.checkpoints() if step_of(folder) == SAVED_STEP)
    saved = torch.load(next(folder.glob("actor/model_*.pt")), weights_only=False)
    full = {name: one.full_tensor() if hasattr(one, "full_tensor") else one for name, one in saved.items()}
    model.load_state_dict({name: value.float() for name, value in full.items()})
    largest = 0.0
    for one in plain:
        prompt = tokenizer.encode(one["prompt"], add_special_tokens=False)
        response = [tokenizer.encode(text, add_special_tokens=False) for text in one["tokens"]]
        ids = torch.tensor([prompt + [number for numbers in response for number in numbers]])
        with torch.no_grad():
            log_probs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
        expected = torch.tensor(one["log_prob"]) + torch.tensor(one["log_ratio"])
        torch.testing.assert_close(expected, log_probs, rtol=1e-3, atol=2e-4)  # log_prob has four decimals
        largest = max(largest, *map(abs, one["log_ratio"]))
    assert largest > 1e-2, "or the weights before the updates would do"
    for group in {one["group"] for one in kept}:
        rewards = torch.tensor([one["reward"] for one in kept if one["group"] == group])
        advantages = [one["advantage"] for one in kept if one["group"] == group]
        assert advantages == pytest.approx(((rewards - rewards.mean()) / (rewards.std() + 1e-6)).tolist(), abs=1e-4)


def test_ctrl_c(looked: Looked) -> None:
    assert looked.status == ExitStatus.INTERRUPTED
    assert "to resume from the last checkpoint: python -m recipe.holderpo.main " in looked.run.said
    assert looked.run.left_over() == []


def test_no_secret_is_in_anything_that_it_wrote(looked: Looked) -> None:
    written = {path: path.read_bytes() for path in looked.run.folder.rglob("*") if path.is_file()}
    assert any(path.suffix == ".wandb" for path in written) and any(path.name == MANIFEST for path in written)
    assert any("raylet" in path.name for path in looked.temporary_texts)
    for name, secret in looked.planted.items():
        found = [path for path, text in (written | looked.temporary_texts).items() if secret.encode() in text]
        assert found == [], name


def test_strangers_are_refused(looked: Looked) -> None:
    """Ray's own ports, which are open on all interfaces, ask for the token; the others are for this machine alone."""
    assert looked.strangers["its token"].returncode == 0, looked.strangers["its token"].stderr
    refused = looked.strangers["another"]
    assert refused.returncode != 0 and "token" in (refused.stdout + refused.stderr).lower()
    outside = [place for place in looked.listening if place[0] not in WILDCARD and not LOOPBACK.match(place[0])]
    assert outside == []
    engines = [place for place in looked.listening if "vLLM" in place[2] or "VLLM" in place[2]]
    assert engines != [] and all(LOOPBACK.match(ip) or "::" in ip for ip, _, _ in engines), engines


def evaluation(looked: Looked, run: str, *overrides: str) -> "subprocess.Popen[str]":
    """Evaluates the run's checkpoint, as a user would after training."""
    command = [
        sys.executable, "-m", "recipe.holderpo.evaluation", "hardware=cpu", f"model={looked.run.run_dir}",
        "benchmarks=[held]", f"data_dir={looked.data}", f"out_dir={looked.run.folder}/out", f"run={run}",
        f"max_tokens={RESPONSE_TOKENS}", "engine.max_model_len=64", "engine.kv_cache_memory_bytes=134217728", *overrides,
    ]  # fmt: skip
    env = os.environ | environment(looked.run.base)
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def answers(looked: Looked, run: str) -> list[tuple[int, int, str, float]]:
    file = looked.run.folder / "out" / run / "generations" / "held.jsonl"
    rows = map(json.loads, file.read_text().splitlines())
    return sorted((row["index"], row["sample"], row["answer"], row["score"]) for row in rows)


@pytest.fixture(scope="module")
def sampled(looked: Looked) -> list[tuple[int, int, str, float]]:
    """An evaluation with four answers per problem, which merges the checkpoint."""
    whole = evaluation(looked, "whole", "n=4", "temperature=1.0", "k=[1,4]", "chunk=16")
    output, _ = whole.communicate()
    assert whole.returncode == 0, output[-4000:]
    assert "leaked" not in output, "as nanobind says of Triton's types when the interpreter is taken apart"
    return answers(looked, "whole")


def test_the_table_is_that_of_the_answers(looked: Looked, sampled: list[tuple[int, int, str, float]]) -> None:
    assert len(sampled) == 4 * HELD_OUT and len({text for _, _, text, _ in sampled}) > 4
    results = json.loads((looked.run.folder / "out" / "whole" / "results.json").read_text())
    assert set(results) == {"whole", "whole pass@1", "whole pass@4"}
    mean = sum(score for *_, score in sampled) / len(sampled)
    assert results["whole"]["held"]["accuracy"] == pytest.approx(mean)


def test_the_merged_checkpoint_has_the_trained_weights(
    looked: Looked, sampled: list[tuple[int, int, str, float]]
) -> None:
    folder = looked.run.checkpoints()[0]  # the newest, which stands for the run
    merged, base = (load_file(f / "model.safetensors") for f in (folder / "actor/merged", looked.base_model))
    trained = torch.load(next(folder.glob("actor/model_*.pt")), weights_only=False)
    assert set(base) <= set(trained)
    moved = 0.0
    for name, weight in merged.items():
        full = trained[name].full_tensor() if hasattr(trained[name], "full_tensor") else trained[name]
        torch.testing.assert_close(weight.float(), full.float(), rtol=1e-2, atol=1e-4)  # merged into bfloat16
        moved = max(moved, float((full - base[name]).abs().max()) if name in base else 0.0)
    assert moved > 1e-3, "or the base model's weights would do"


def test_a_killed_evaluation_resumes(looked: Looked, sampled: list[tuple[int, int, str, float]]) -> None:
    """It ends as if it had not been killed."""
    overrides = ("n=4", "temperature=1.0", "k=[1,4]", "chunk=1")
    killed = evaluation(looked, "killed", *overrides)
    generations = looked.run.folder / "out" / "killed" / "generations" / "held.jsonl"
    while not generations.exists() or generations.stat().st_size == 0:
        assert killed.poll() is None
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert 0 < len(answers(looked, "killed")) < len(sampled)
    again = evaluation(looked, "killed", *overrides)
    output, _ = again.communicate()
    assert again.returncode == 0, output[-4000:]
    assert answers(looked, "killed") == sampled
