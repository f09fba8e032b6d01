"""Building data sets: normalised, counted, checked against each other, the same bytes every time."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from transformers import AutoTokenizer

from recipe.holderpo.data.__main__ import main, token_counter
from recipe.holderpo.data.answers import answer_of_solution, normalize_ground_truth, problem_key
from recipe.holderpo.data.sources import DataError, Source, _read_hub, parse_source, read_source
from recipe.holderpo.data.templates import TEMPLATES
from recipe.holderpo.embedded.tiny_model import build_tokenizer

GROUND_TRUTHS: list[tuple[Any, str]] = [
    ("['9.6\n']", "9.6"), ('["2"]', "2"), (["$2^{1009}$"], "2^{1009}"), ("142.0", "142"), (142.0, "142"), (7, "7"),
    ("so 3+4=7\n#### 7", "7"), ("#### 1,200", "1,200"), ("['1', '2']", '["1", "2"]'),
    (["1", "1"], "1"),
    ("['9.6\\n']", "9.6"),
    ("[1, 2]", "[1, 2]"), ("['a", "['a"), (" x ", "x"), ("0.50", "0.50"), ("$1$ and $2$", "$1$ and $2$"),
    ("1.0e3", "1.0e3"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), GROUND_TRUTHS)
def test_ground_truths(answer: Any, expected: str) -> None:
    assert normalize_ground_truth(answer) == expected


@pytest.mark.parametrize("answer", ["", " ", None, [], float("nan"), "####", "['']"])
def test_an_answer_that_is_none_is_an_error(answer: Any) -> None:
    with pytest.raises(ValueError, match="no answer in"):
        normalize_ground_truth(answer)


def test_the_answer_of_a_worked_solution() -> None:
    assert answer_of_solution("Thus $x=\\boxed{3}$, so \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    with pytest.raises(ValueError, match=r"no .*boxed"):
        answer_of_solution("Thus 3.")


def test_spellings_of_one_problem_share_a_key() -> None:
    assert problem_key("What is $1 + 1$?") == problem_key("  what is 1+1 ?") == problem_key("What is ${1}+1$")
    assert problem_key("What is 1+1?") != problem_key("What is 1-1?")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def problems(tmp_path: Path) -> dict[str, Path]:
    train: list[dict[str, Any]] = [
        {"question": f"What is {i}+{i}?", "answer": f"thinking\n#### {2 * i}"} for i in range(6)
    ]
    train += [{"question": "what is  0 + 0?", "answer": "#### 0"}, {"question": "What is 1+1?", "answer": "#### 3"}]
    train += [{"question": " ", "answer": "#### 1"}, {"question": "Why?", "answer": None}]
    evaluation = [{"problem": "What is 5+5?", "answer": "['10\n']"}, {"problem": "What is 7 + 7 ?", "answer": "14.0"}]
    parquet = tmp_path / "eval_held_out.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(evaluation), parquet)
    return {"train": write_jsonl(tmp_path / "train.jsonl", train), "eval": parquet, "out": tmp_path / "out"}


def build(problems: dict[str, Path], *more: str) -> dict[str, Any]:
    main(
        ["--train", f"mine={problems['train']}", "--eval", str(problems["eval"]), "--out", str(problems["out"]), *more]
    )
    manifest: dict[str, Any] = json.loads((problems["out"] / "data.json").read_text())
    return manifest


def test_what_verl_gets(problems: dict[str, Path]) -> None:
    manifest = build(problems, "--overlap", "drop")
    rows = pyarrow.parquet.read_table(problems["out"] / "train.parquet").to_pylist()
    assert [row["prompt"][0]["content"] for row in rows] == [f"What is {i}+{i}?" for i in range(5)]
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["0", "2", "4", "6", "8"]
    assert rows[2]["extra_info"]["index"] == 2 and {row["data_source"] for row in rows} == {"mine"}
    held_out = pyarrow.parquet.read_table(problems["out"] / "eval_held_out.parquet").to_pylist()
    assert [row["reward_model"] for row in held_out] == [
        {"style": "rule", "ground_truth": "10"}, {"style": "rule", "ground_truth": "14"},
    ]  # fmt: skip
    assert manifest["sources"]["mine"]["counts"] == {
        "rows": 10, "other_level": 0, "empty": 1, "without_answer": 1, "duplicates": 2, "conflicting": 1, "over_long": 0,
        "in_evaluation": 1, "kept": 5,
    }  # fmt: skip


def test_the_same_input_gives_the_same_bytes(problems: dict[str, Path]) -> None:
    first = build(problems, "--overlap", "drop")
    files = {file: (problems["out"] / file).read_bytes() for file in (*first["sha256"], "data.json")}
    assert build(problems, "--overlap", "drop") == first
    assert {file: (problems["out"] / file).read_bytes() for file in files} == files


def test_training_problems_of_an_evaluation_set_are_refused(
    problems: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1 of held_out; --overlap drop leaves them out"):
        build(problems)
    assert not problems["out"].exists()
    assert build(problems, "--overlap", "keep")["sources"]["mine"]["counts"]["kept"] == 6


def test_over_long_prompts_are_counted_with_their_template(problems: dict[str, Path], tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    count = token_counter(str(tmp_path / "tokenizer"), "none")
    assert count("What is 1+1?") == len("What is 1+1?")  # the embedded tokenizer has one token per byte
    longer = token_counter(str(tmp_path / "tokenizer"), "r1")
    assert longer("What is 1+1?") > 400
    options = ("--overlap", "drop", "--tokenizer", str(tmp_path / "tokenizer"), "--template", "none")
    manifest = build(problems, *options, "--max-prompt-length", str(len("What is 1+1?")))
    assert manifest["sources"]["held_out"]["counts"]["over_long"] == 1  # "What is 7 + 7 ?"
    assert manifest["sources"]["held_out"]["counts"]["kept"] == 2, "nothing is left out of an evaluation set"


def test_the_templates_give_the_prompts_of_the_papers_protocol(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "What is 1+1?"}]

    def prompt(name: str) -> str:
        text: str = tokenizer.apply_chat_template(
            messages, chat_template=TEMPLATES[name], add_generation_prompt=True, tokenize=False
        )
        return text

    assert prompt("none").endswith("What is 1+1?")
    assert prompt("qwen_math").endswith(
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt("r1").endswith("\nUser: What is 1+1?\nAssistant: <think>")
    assert prompt("r1").count("<think> reasoning process here </think> <answer> answer here </answer>") == 1


def test_a_hub_data_set_is_read_with_its_split_and_columns(tmp_path: Path) -> None:
    """The hub's own loader, on a folder laid out like a hub repository."""
    (tmp_path / "data").mkdir()
    rows = [{"problem": f"p{i}", "solution": f"\\boxed{{{i}}}", "level": f"Level {i}"} for i in range(1, 6)]
    write_jsonl(tmp_path / "data" / "train.jsonl", rows)
    write_jsonl(tmp_path / "data" / "test.jsonl", [rows[0] | {"problem": "p6", "level": "Level 5"}])
    both = _read_hub(str(tmp_path), Source("x", splits=("train", "test")))
    assert [row["problem"] for row in both] == ["p1", "p2", "p3", "p4", "p5", "p6"]
    with pytest.raises(DataError, match=r"cannot be loaded: .*offline"):
        _read_hub(str(tmp_path / "nothing"), Source("x"))


def test_math_keeps_levels_3_to_5_and_takes_the_boxed_answer(tmp_path: Path) -> None:
    rows = [{"problem": f"p{i}", "solution": f"\\boxed{{{i}}}", "level": f"Level {i}"} for i in range(1, 6)]
    write_jsonl(tmp_path / "math.jsonl", rows)
    main(["--train", f"math_3to5={tmp_path}/math.jsonl", "--out", str(tmp_path / "out")])
    built = pyarrow.parquet.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in built] == ["3", "4", "5"]
    counts = json.loads((tmp_path / "out" / "data.json").read_text())["sources"]["math_3to5"]["counts"]
    assert (counts["rows"], counts["other_level"], counts["kept"]) == (5, 2, 3)


def test_a_json_line_may_hold_other_line_separators(tmp_path: Path) -> None:
    problem = "How many\u2028lines\x85are these?"
    text = json.dumps({"problem": problem, "answer": "1"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes(f"{text}\r\n{text.replace('lines', 'rows')}\n".encode())
    main(["--train", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out")])
    (first, second) = pyarrow.parquet.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert first["prompt"][0]["content"] == problem and "rows" in second["prompt"][0]["content"]


def test_an_evaluation_set_keeps_its_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"problem": "p", "answer": "1"}] * 2)
    main(["--eval", str(file), "--out", str(tmp_path / "out")])
    assert pyarrow.parquet.read_table(tmp_path / "out" / "eval_a.parquet").num_rows == 2
    counts = json.loads((tmp_path / "out" / "data.json").read_text())["sources"]["a"]["counts"]
    assert (counts["duplicates"], counts["kept"]) == (1, 2)
    *_, head, row = capsys.readouterr().err.splitlines()
    assert head.startswith("problems  rows  ") and head.endswith("  kept") and row.split()[-1] == "2"


def test_sources_on_the_command_line() -> None:
    assert parse_source("math500") == ("math500", None)
    assert parse_source("amc=/data/eval_amc.parquet") == ("amc", "/data/eval_amc.parquet")
    assert parse_source("/data/eval_amc.parquet") == ("amc", "/data/eval_amc.parquet")
    assert parse_source("someone/some-problems") == ("some-problems", "someone/some-problems")


BAD_FILES = {
    "x.csv": ("a,b\n", "ends in '.csv'; allowed are .jsonl, .json, .parquet"),
    "x.jsonl": ('{"problem": "a"}\nnot json\n', "line 2"),
    "y.jsonl": ("", "has no rows"),
    "z.jsonl": (
        '{"text": "a", "answer": "1"}\n',
        "has the columns text, answer; the problem must be in one of problem",
    ),
    "w.jsonl": ('{"problem": "a", "result": "1"}\n', "the answer must be in one of answer"),
    "v.jsonl": ('{"problem": "", "answer": "1"}\n', "none of 1 rows"),
    "u.parquet": ("no parquet", "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_input_is_one_clear_line(name: str, tmp_path: Path) -> None:
    text, message = BAD_FILES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["--train", str(tmp_path / name), "--out", str(tmp_path / "out")])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_origin_is_recorded(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"problem": "p", "answer": "1"}])
    _, origin = read_source("a", str(file))
    _, same = read_source("a", str(tmp_path))
    assert origin["sha256"] == same["sha256"] and origin["rows"] == 1 and origin["place"] == str(file)
    file.write_text(file.read_text() + "\n")
    assert read_source("a", str(file))[1]["sha256"] != origin["sha256"]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("a.jsonl", '{"problem": "1+1?", "answer": 2}\n[1, 2]\n', "a.jsonl, row 2 is [1, 2]; allowed are objects"),
        ("a.json", '["1+1?"]', "a.json, row 1 is '1+1?'; allowed are objects"),
        ("a.json", '{"rows": []}', "a.json holds one dict; allowed is a list"),
        ("a.json", "5", "a.json holds one int; allowed is a list"),
        ("a.jsonl", '{"problem": "\\ud83d?", "answer": 2}\n', "a.jsonl, row 1, column 'problem' is not Unicode text"),
    ],
)
def test_rows_that_cannot_be_used_are_named(file: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(SystemExit) as ended:
        main(["--train", str(tmp_path / file), "--out", str(tmp_path / "out")])
    assert said in str(ended.value) and "\n" not in str(ended.value)


def test_every_separator_that_json_allows_and_columns_that_are_missing_later(tmp_path: Path) -> None:
    rows = [
        {"problem": "one\u2028line\x85?", "answer": "1"},
        {"problem": "no answer"},
        {"answer": "no problem"},
        {"problem": "null", "answer": None},
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    main(["--train", str(file), "--out", str(tmp_path / "out")])
    written = pyarrow.parquet.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert [row["prompt"][0]["content"] for row in written] == ["one\u2028line\x85?"]
    counts = json.loads((tmp_path / "out" / "data.json").read_text())["sources"]["a"]["counts"]
    assert (counts["rows"], counts["empty"], counts["without_answer"], counts["kept"]) == (4, 1, 2, 1)


def test_bytes_are_text_or_no_answer(tmp_path: Path) -> None:
    table = pyarrow.table({"problem": ["1+0?", "1+1?"], "answer": [b"1", b"\xff"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    main(["--train", str(tmp_path / "a.parquet"), "--out", str(tmp_path / "out")])
    written = pyarrow.parquet.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in written] == ["1"]


def test_no_set_is_doubled_or_emptied_in_silence(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}+{i}?", "answer": 2 * i} for i in range(4)]
    one = write_jsonl(tmp_path / "one.jsonl", rows)
    two = write_jsonl(
        tmp_path / "two.jsonl", [*rows[2:], {"problem": "3 + 3 ?", "answer": 7}, {"problem": "9?", "answer": 9}]
    )
    out = ["--out", str(tmp_path / "out")]

    def said(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *out])
        assert not (tmp_path / "out").exists()
        return str(ended.value)

    assert "one is given twice" in said("--train", str(one), str(one))
    assert "one is given twice" in said("--train", str(one), "--eval", str(one))
    assert "one and same are the same rows" in said("--train", str(one), f"same={one}")
    assert "nothing is left of one: 4 rows, 4 in evaluation" in said(
        "--train", str(one), "--eval", str(write_jsonl(tmp_path / "e.jsonl", rows[::-1])), "--overlap", "drop"
    )
    main(["--train", str(one), str(two), *out])
    counts = json.loads((tmp_path / "out" / "data.json").read_text())["sources"]
    assert counts["one"]["counts"]["kept"] == 4
    # 2+2 and 3+3 are in the first set, and 3+3 of another answer is a duplicate within the second
    assert (counts["two"]["counts"]["duplicates"], counts["two"]["counts"]["conflicting"]) == (3, 1)
    problems = [
        row["prompt"][0]["content"] for row in pyarrow.parquet.read_table(tmp_path / "out/train.parquet").to_pylist()
    ]
    assert problems == ["0+0?", "1+1?", "2+2?", "3+3?", "9?"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    file = write_jsonl(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": 2}])
    with pytest.raises(SystemExit) as ended:
        main(["--train", str(file), "--out", str(tmp_path / "out")])
    assert str(ended.value) == f"error: --out {tmp_path}/out cannot be written: File exists"
