"""What is kept of a step's tokens: which groups, which texts, which numbers."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from holderpo_core import SignedP
from recipe.holderpo.embedded.tiny_model import build_tokenizer
from recipe.holderpo.training import token_groups
from recipe.holderpo.training.token_groups import keep_tokens, keys_to_keep, texts_of, token_lines

KEYS = [f"{prompt}_{episode}_0" for prompt in "cab" for episode in range(3)]
REWARDS = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]  # only those of a differ
LENGTHS = [3, 1, 2, 3, 2, 2, 1, 3, 2]


def nested(rows: list[Any]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def queue(keys: list[str], fields: list[str]) -> TensorDict:
    """Response tokens 65, 66, 67 after the prompt token 64; the last token of every response but one is not the model's."""
    rows = [KEYS.index(key) for key in keys]
    lengths = [LENGTHS[row] for row in rows]
    columns: dict[str, list[Any]] = {
        "prompts": [[64]] * len(rows),
        "responses": [[65, 66, 67][:n] for n in lengths],
        "response_mask": [[1] * (n - 1) + [int(n == 1)] for n in lengths],
        "old_log_probs": [[-1.0 - i for i in range(n)] for n in lengths],
        "log_probs": [
            [0.0] + [-0.5 - i for i in range(n)] for n in lengths
        ],  # of prompt and response, a position earlier
        "advantages": [[2.0 * REWARDS[row] - 1] * n for row, n in zip(rows, lengths, strict=True)],
        "rm_scores": [[0.0] * (n - 1) + [REWARDS[row]] for row, n in zip(rows, lengths, strict=True)],
    }
    return TensorDict({name: nested(columns[name]) for name in fields}, batch_size=[len(rows)])


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> KVBatchMeta:
    def get(keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        assert partition_id == "train"
        return queue(keys, select_fields)

    monkeypatch.setattr(token_groups, "tq", SimpleNamespace(kv_batch_get=get))
    tags = [{"is_padding": key == "b_2_0"} for key in KEYS]
    return KVBatchMeta(keys=list(KEYS), tags=tags, partition_id="train")


def test_groups_with_a_signal_come_first_and_padding_is_never_kept(batch: KVBatchMeta) -> None:
    assert keys_to_keep(batch, 1, 8) == ["a_0_0", "a_1_0", "a_2_0"]
    assert keys_to_keep(batch, 2, 2) == ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
    assert keys_to_keep(batch, 100, 8) == sorted(set(KEYS) - {"b_2_0"})


def test_of_an_episode_that_is_several_samples_the_last_one_is_kept(
    batch: KVBatchMeta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of ALFWorld: the rewards of earlier steps do not count, and steps are numbers, not texts."""
    keys = [f"a_{episode}_{step}" for episode in (0, 1, 10, 2) for step in range(11)] + ["b_0_0", "b_1_0"]
    rewards = [float(key.startswith("a") and key.endswith("_3")) for key in keys[:-1]] + [1.0]

    def get(keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        return TensorDict({"rm_scores": nested([[reward] for reward in rewards])}, batch_size=[len(keys)])

    monkeypatch.setattr(token_groups, "tq", SimpleNamespace(kv_batch_get=get))
    steps = KVBatchMeta(keys=keys, tags=[{} for _ in keys], partition_id="train")
    assert keys_to_keep(steps, 1, 8) == ["b_0_0", "b_1_0"], "the only group whose episodes end differently"
    assert keys_to_keep(steps, 2, 3)[2:] == ["a_0_10", "a_1_10", "a_2_10"]


def test_a_line_has_the_numbers_of_its_sample(batch: KVBatchMeta) -> None:
    tokenizer = SimpleNamespace(decode=lambda ids: "".join(chr(int(one)) for one in ids))
    first, second = token_lines(["a_0_0", "a_1_0"], "train", tokenizer, SignedP(2.0, -math.inf), 0.2, 0.2)
    assert (first["group"], first["sample"], first["prompt"], first["tokens"]) == ("a", "a_0_0", "@", ["A", "B", "C"])
    assert (first["mask"], first["log_ratio"], first["log_prob"]) == ([1, 1, 0], [1.0, 1.5, 0.0], [-1.0, -2.0, 0.0])
    assert (first["advantage"], first["reward"], first["p"]) == (-1.0, 0.0, "-inf")
    assert (second["advantage"], second["reward"], second["p"]) == (1.0, 1.0, 2.0)
    (none,) = token_lines(["c_1_0"], "train", tokenizer, None, 0.2, 0.2)
    assert none["p"] is None and none["mask"] == [1]


def trainer_of(folder: Path, step: int, every: int) -> Any:
    """In the last of a step's two updates."""
    config = {
        "run_dir": str(folder), "report": {"tokens_every": every, "token_groups": 1},
        "actor_rollout_ref": {"actor": {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2}, "rollout": {"n": 3}},
    }  # fmt: skip
    made = SimpleNamespace(config=OmegaConf.create(config), global_steps=step, tokenizer=build_tokenizer())
    made.local_trigger_step, made.parameter_sync_step = 1, 2
    return made


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_forward_pass_takes_samples_that_the_ranks_can_share(
    ranks: int, batch: KVBatchMeta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[list[str]]()
    monkeypatch.setattr(token_groups, "log_probs_of", lambda trainer, samples: asked.append(samples.keys))
    monkeypatch.setattr(token_groups, "data_parallel_size", lambda trainer: ranks)
    trainer = trainer_of(tmp_path, step=2, every=3)
    assert keep_tokens(trainer, batch, 0.0) == {} and asked == [], "step 2 keeps none"
    trainer.global_steps, trainer.local_trigger_step = 3, 0
    assert keep_tokens(trainer, batch, 0.0) == {} and asked == [], "another update of the step follows"
    trainer.local_trigger_step = 1
    assert keep_tokens(trainer, batch, 0.0)["report/tokens_seconds"] > 0
    assert asked[0][:3] == ["a_0_0", "a_1_0", "a_2_0"] and len(asked[0]) == {1: 3, 2: 4, 4: 4}[ranks]
    lines = (tmp_path / "tokens" / "3.jsonl").read_text().splitlines()
    assert [json.loads(line)["sample"] for line in lines] == ["a_0_0", "a_1_0", "a_2_0"]


def test_a_full_disk_costs_the_tokens_alone(
    batch: KVBatchMeta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(token_groups, "log_probs_of", lambda trainer, samples: None)
    monkeypatch.setattr(token_groups, "data_parallel_size", lambda trainer: 1)
    (tmp_path / "tokens").touch()
    trainer = trainer_of(tmp_path, step=1, every=1)
    assert keep_tokens(trainer, batch, 0.0)["report/tokens_seconds"] > 0
    assert "the tokens of step 1 are not kept" in caplog.text


def test_texts_of_tokens_make_up_the_text() -> None:
    """Bytes of one character are the last one's; and a tokenizer that drops a space at the beginning loses none."""
    tokenizer = build_tokenizer()
    ids = tokenizer.encode("1+2=é€ x")
    texts = texts_of(ids, tokenizer.decode)
    assert "".join(texts) == "1+2=é€ x" and len(texts) == len(ids)
    assert texts[4:9] == ["", "é", "", "", "€"]
    words = {1: " the", 2: " end"}
    assert texts_of([1, 2], lambda ones: "".join(words[one] for one in ones).removeprefix(" ")) == ["the", " end"]


def test_what_is_no_character_is_shown_as_such() -> None:
    tokenizer = build_tokenizer()
    euro = tokenizer.encode("€")
    assert texts_of([*euro[:2], *tokenizer.encode("ab")], tokenizer.decode)[-1] == "b"
    assert texts_of(euro[:2], tokenizer.decode) == ["", "\ufffd"], "the text ends within a character"
