"""Wrong data files and model folders are refused with one line, before Ray starts."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.config.inputs import check_data, check_model
from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer, save_model


def row(text: Any = "1+1?", index: int = 0) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": text}],
        "data_source": "sums",
        "reward_model": {"ground_truth": "2"},
        "extra_info": {"index": index},
    }


def config(files: Path | list[str], model: Path | None = None, **data: Any) -> DictConfig:
    files_ = files if isinstance(files, list) else str(files)
    return OmegaConf.create(
        {
            "data": {
                "train_files": files_, "val_files": files_, "train_batch_size": 1, "prompt_key": "prompt",
                "max_prompt_length": 64, "filter_overlong_prompts": True, "apply_chat_template_kwargs": {}, **data,
            },
            "actor_rollout_ref": {
                "model": {"path": str(model), "trust_remote_code": False, "custom_chat_template": None},
                "rollout": {"agent": {"default_agent_loop": "holder_single_turn"}},
            },
            "reward": {"custom_reward_function": {"path": "mine.py"}, "reward_manager": {"source": "register"}},
        }
    )  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(json.dumps(r) for r in rows))
    return path


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in row().items() if key != name}


ROWS = [row(f"{i}+1?", i) for i in range(4)]
BAD_ROWS = {
    "no prompt": ([without("prompt")], ["no column 'prompt'", "data_source"]),
    "no data_source": ([without("data_source")], ["no column 'data_source'"]),
    "no reward_model": ([without("reward_model")], ["no column 'reward_model'", "ground_truth"]),
    "no ground_truth": ([row() | {"reward_model": {"style": "rule"}}], ["no 'ground_truth'"]),
    "a text as prompt": ([row() | {"prompt": "1+1?"}], ["column 'prompt' is string", "list of messages"]),
    "no content": ([row() | {"prompt": [{"role": "user"}]}], ["'content'"]),
    "an empty list": ([*ROWS, row() | {"prompt": []}], ["row 4 has an empty prompt"]),
    "an empty text": ([*ROWS, row(" \n")], ["row 4 has an empty prompt"]),
    "no text": ([*ROWS, row(None)], ["row 4 has an empty prompt"]),
    "a truth that is null": ([*ROWS, row() | {"reward_model": {"ground_truth": None}}], ["row 4 has no ground_truth"]),
}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(case: str, suffix: str, tmp_path: Path) -> None:
    rows, expected = BAD_ROWS[case]
    _refused(lambda: check_data(config(write(tmp_path / f"data{suffix}", rows))), "data.train_files is", *expected)


def test_a_batch_that_is_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", ROWS)
    check_data(config(path, train_batch_size=4))
    _refused(
        lambda: check_data(config(path, train_batch_size=5)),
        "data.train_batch_size is 5; allowed are at most the 4 rows",
    )


def test_the_row_is_counted_over_blocks_and_the_last_message_counts(tmp_path: Path) -> None:
    two = [{"role": "system", "content": ""}, {"role": "user", "content": "?"}]  # an empty system prompt is no error
    rows = [row(index=i) | {"prompt": two} for i in range(10_005)]
    check_data(config(write(tmp_path / "good.parquet", rows)))
    rows[10_003] = row() | {"prompt": [*two[::-1]]}
    _refused(lambda: check_data(config(write(tmp_path / "bad.parquet", rows))), "row 10003 has an empty prompt")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def check(name: str, content: bytes, *expected: str) -> None:
        (tmp_path / name).write_bytes(content)
        _refused(lambda: check_data(config(tmp_path / name)), "data.train_files is", name, *expected)

    check("data.csv", b"a,b", ".parquet, .json, .jsonl")
    check("cut.parquet", write(tmp_path / "w.parquet", ROWS).read_bytes()[:-20], "cannot be read")
    latin = json.dumps(row("@")).replace("@", "Größe").encode("latin-1")
    check("latin.jsonl", latin, "cannot be read")
    check("half.jsonl", json.dumps(row()).encode()[:-9], "cannot be read")
    check("none.jsonl", b"", "data.train_files")
    texts = pa.array([b"ok", b"\xff\xfe"], pa.binary()).view(pa.string())
    table = pa.table(
        {
            "prompt": pa.ListArray.from_arrays([0, 1, 2], pa.StructArray.from_arrays([texts], ["content"])),
            "data_source": ["a", "a"],
            "reward_model": pa.StructArray.from_arrays([pa.array(["1", "2"])], ["ground_truth"]),
        }
    )
    pq.write_table(table, tmp_path / "binary.parquet")
    _refused(lambda: check_data(config(tmp_path / "binary.parquet")), "cannot be read", "UTF8")
    pq.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), tmp_path / "empty.parquet")
    _refused(lambda: check_data(config(tmp_path / "empty.parquet")), "cannot be read")


def test_repeated_ids_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.parquet", ROWS)
    check_data(config(good))
    assert capsys.readouterr().out == ""
    check_data(config(write(tmp_path / "twice.parquet", [*ROWS, *ROWS[:3]])))
    assert "data.train_files: 3 of 7 rows have an extra_info.index that an earlier row has" in capsys.readouterr().out


CHECK_AND_MEASURE = """
import resource, sys
from omegaconf import OmegaConf
from recipe.holderpo.config.inputs import check_data
check_data(OmegaConf.create(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_million_rows_take_bounded_memory(tmp_path: Path) -> None:
    """In a process of its own: the check of 1,000,000 rows may take no more memory than one of 20,000, but for the ids."""
    used = {}
    for rows in (20_000, 1_000_000):
        file = tmp_path / f"{rows}.parquet"
        table = pa.concat_tables([pa.Table.from_pylist([row("What is one plus one? " * 5)] * 1000)] * 20)
        with pq.ParquetWriter(file, table.schema) as writer:
            for _ in range(rows // len(table)):
                writer.write_table(table)
        done = subprocess.run(
            [sys.executable, "-c", CHECK_AND_MEASURE, OmegaConf.to_yaml(config(file))],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        used[rows] = int(done.stdout.splitlines()[-1]) / 1024
    assert used[1_000_000] - used[20_000] < 100, used  # MiB; the texts alone are 110, as Python objects 500


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer()
    save_model(build_model(TinyModelConfig(hidden_size=16, num_layers=1, num_heads=1), tokenizer, 0), tokenizer, folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.parquet", ROWS)


def changed(model: Path, folder: Path, name: str, **values: Any) -> Path:
    """A copy of the model whose JSON file has other values."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(settings | values))
    return folder


def test_models(model: Path, data: Path, tmp_path: Path) -> None:
    check_model(config(data, model))
    key = "actor_rollout_ref.model.path is"
    for name in ("config.json", "tokenizer_config.json"):
        broken = changed(model, tmp_path / f"no_{name}", name)
        (broken / name).unlink()
        _refused(lambda: check_model(config(data, broken)), key, f"no {name}")  # noqa: B023
        (broken / name).write_text("{")
        _refused(lambda: check_model(config(data, broken)), key, name, "cannot be read")  # noqa: B023
    no_tokens = changed(model, tmp_path / "no_tokens", "config.json")
    (no_tokens / "tokenizer.json").unlink()
    _refused(lambda: check_model(config(data, no_tokens)), key, "with its tokenizer")


def test_code_of_a_model_is_not_run_unasked(model: Path, data: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        own = changed(model, tmp_path / f"own_{name}", name, auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
        (own / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Tokenizer: ...")
        _refused(lambda: check_model(config(data, own)), "trust_remote_code is False", "evil.Tokenizer")  # noqa: B023
    assert not (tmp_path / "ran").exists()


def test_templates(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def check(template: str, *expected: str) -> None:
        wrong = config(data, model)
        wrong.actor_rollout_ref.model.custom_chat_template = template
        _refused(lambda: check_model(wrong), "chat template", *expected)

    check("{{ messages[0]['text'] | upper }} {{ raise_exception('roles must alternate') }}", "row 0", "roles must")
    check("{{ messages[0]['role'] }}", "leaves out what row 0")
    check("{% for %}", "row 0")
    bare = changed(model, tmp_path / "bare", "tokenizer_config.json")
    (bare / "chat_template.jinja").unlink()
    _refused(lambda: check_model(config(data, bare)), "custom_chat_template is null")
    long = write(tmp_path / "long.parquet", [row("1" * 100), *ROWS])
    check_model(config(long, model))
    assert "1 of the first 5 prompts" in (out := capsys.readouterr().out) and out.strip().endswith("=64: left out")
    _refused(lambda: check_model(config(long, model, max_prompt_length=3)), "max_prompt_length is 3", "every one")


def _refused(check: Callable[[], None], *expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check()
    message = str(refused.value)
    assert "\n" not in message and [part for part in expected if part not in message] == [], message


def test_without_a_reward_function_verls_own_must_know_the_data_source(tmp_path: Path) -> None:
    unknown = config(write(tmp_path / "sums.parquet", ROWS))
    unknown.reward.custom_reward_function.path = None
    _refused(
        lambda: check_data(unknown),
        "reward.custom_reward_function.path is null",
        "'sums' of data.train_files",
        "sums.parquet",
    )
    unknown.actor_rollout_ref.rollout.agent.default_agent_loop = "alfworld"  # an agent has rewards of its own
    check_data(unknown)
    known = config(write(tmp_path / "gsm8k.parquet", [r | {"data_source": "openai/gsm8k"} for r in ROWS]))
    known.reward.custom_reward_function.path = None
    check_data(known)
