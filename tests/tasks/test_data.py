"""Generated problems and their parquet files, against Python's own arithmetic and verl's reader."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.holderpo.embedded.dataset import Problem, split_problems, write_parquet_files
from recipe.holderpo.tasks import addition
from recipe.holderpo.tasks.arithmetic import problems as arithmetic


def test_arithmetic_answers() -> None:
    problems = arithmetic.all_problems()
    assert len(problems) == 4000
    for problem in problems:
        assert int(problem.answer) == eval(problem.question)


def test_addition_answers() -> None:
    problems = addition.all_problems()
    assert len(problems) == 100
    for problem in problems:
        a, plus, b = problem.question.removeprefix("What is ").split("?")[0].split()
        assert plus == "+"
        assert int(problem.answer) == int(a) + int(b)


@given(size=st.integers(2, 60), data=st.data(), seed=st.integers(0, 2**31))
def test_split_is_a_partition(size: int, data: st.DataObject, seed: int) -> None:
    problems = [Problem(str(i), str(-i)) for i in range(size)]
    val_size = data.draw(st.integers(1, size - 1))
    train, val = split_problems(problems, val_size, seed)
    assert len(val) == val_size
    assert sorted(train + val) == sorted(problems)
    assert (train, val) == split_problems(problems, val_size, seed)


def test_split_refuses_what_it_cannot_do() -> None:
    problems = [Problem("1", "1"), Problem("2", "2")]
    for val_size in (0, 2):
        with pytest.raises(ValueError, match=f"val_size={val_size}"):
            split_problems(problems, val_size, seed=0)
    with pytest.raises(ValueError, match="distinct"):
        split_problems([*problems, Problem("1", "3")], 1, seed=0)


def test_arithmetic_files(tmp_path: Path) -> None:
    train_file, val_file = arithmetic.ensure_data(tmp_path)
    assert (train_file, val_file) == (tmp_path / "arithmetic/train.parquet", tmp_path / "arithmetic/val.parquet")
    train, val = pq.read_table(train_file).to_pylist(), pq.read_table(val_file).to_pylist()
    assert (len(train), len(val)) == (4000 - 64, 2 * 64)
    questions = {row["prompt"][0]["content"] for row in train}
    assert not questions & {row["prompt"][0]["content"] for row in val}
    # verl takes n from this column wherever it is: the training file must leave it to rollout.n
    assert "__rollout_n__" not in train[0]
    sampled = [row for row in val if row["data_source"] == "arithmetic"]
    greedy = [row for row in val if row["data_source"] == "arithmetic_greedy"]
    assert [row["prompt"] for row in sampled] == [row["prompt"] for row in greedy]
    assert {(row["__rollout_n__"], row["extra_info"]["greedy"]) for row in sampled} == {(8, False)}
    assert {(row["__rollout_n__"], row["extra_info"]["greedy"]) for row in greedy} == {(1, True)}
    assert sorted(row["extra_info"]["index"] for row in val) == list(range(128))
    for row in train + val:
        ((message),) = row["prompt"]
        assert message["role"] == "user"
        assert row["reward_model"] == {"style": "rule", "ground_truth": str(eval(message["content"]))}


def test_same_problems_same_bytes(tmp_path: Path) -> None:
    train, val = arithmetic.train_val_problems()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_parquet_files(tmp_path / name, "arithmetic", *arithmetic.train_val_problems(), val_samples=8)
    for file in ("train.parquet", "val.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    other, _ = split_problems(train + val, 64, seed=1)
    assert other != train


def test_verl_reads_the_rows(tmp_path: Path) -> None:
    """Through verl's dataset and collate function, as its trainer gets them."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    from recipe.holderpo.embedded.tiny_model import build_tokenizer

    _, val_file = arithmetic.ensure_data(tmp_path)
    config = OmegaConf.create(
        {"max_prompt_length": 13, "cache_dir": str(tmp_path), "filter_overlong_prompts_workers": 1}
    )
    dataset = RLHFDataset(str(val_file), build_tokenizer(), config)
    assert len(dataset) == 128  # none is longer than 13 tokens
    batch = collate_fn([dataset[0], dataset[1]])
    assert batch["__rollout_n__"].tolist() == [8, 1]
    assert batch["raw_prompt"][0][0]["role"] == "user"
    assert [info["greedy"] for info in batch["extra_info"]] == [False, True]
