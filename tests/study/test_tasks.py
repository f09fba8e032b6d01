"""The clock and the shift: answers against another way to find them, prompts of one length, held-out questions apart."""

import random
import re

import pytest

from recipe.holderpo.embedded.tiny_model import build_tokenizer, encode_prompt
from recipe.holderpo.rewards.boxed import compute_score
from recipe.holderpo.study.tasks import TASKS, shifted
from recipe.holderpo.tasks.clock.problems import DATA_SOURCE, WORDS, draw_question, train_val_problems, worked_answer


def test_a_worked_answer_is_right_at_every_hour() -> None:
    draw = random.Random(1)
    for _ in range(200):
        question = draw_question(draw)
        answer = worked_answer(question)
        assert answer[0::5] + answer[1::5] == question[2::2] + question[3::2], "the turns are repeated"
        for count in range(1, 7):
            shown = answer[: 5 * count]
            assert int(shown[-2:]) == (int(question[:2]) + eval(question[2 : 2 + 2 * count])) % 24


def test_wrong_hours_are_as_many_as_asked_for_and_are_gone_on_from() -> None:
    draw, wrong, count = random.Random(2), 0, 2000
    for _ in range(count):
        answer = worked_answer(question := draw_question(draw), 0.15, draw)
        hour = int(question[:2])
        for turn, shown in re.findall(r"([+-]\d)=(\d\d)", answer):
            wrong += (hour + int(turn)) % 24 != int(shown)
            hour = int(shown)
    assert wrong / (6 * count) == pytest.approx(0.15, abs=4 * (0.15 * 0.85 / 6 / count) ** 0.5)


def test_the_reward_is_for_the_last_hour() -> None:
    train, _ = train_val_problems()
    for problem in train[:50]:
        answer = worked_answer(problem.question)
        assert compute_score(DATA_SOURCE, answer, problem.answer)["score"] == 1.0
        wrong = f"{(int(problem.answer) + 1) % 24:02d}"
        assert compute_score(DATA_SOURCE, answer[:-2] + wrong, problem.answer)["score"] == 0.0


def test_prompts_and_answers_have_one_length_in_tokens() -> None:
    tokenizer, draw = build_tokenizer(WORDS), random.Random(3)
    for _ in range(50):
        question = draw_question(draw)
        assert len(encode_prompt(tokenizer, question)) == 21
        ids = tokenizer.encode(worked_answer(question))
        assert len(ids) == 24
        assert tokenizer.decode(ids) == worked_answer(question)


@pytest.mark.parametrize("name", TASKS)
def test_held_out_questions_are_not_trained_on(name: str) -> None:
    task = TASKS[name]()
    train, val = task.problems
    assert len(val) == 400
    assert task.demonstrations.held_out == {question for question, _ in val}
    assert not {question for question, _ in train} & task.demonstrations.held_out
    for question, answer in val[:20]:
        assert task.answer_of(task.demonstrations.answer(question, 0.0, random.Random(0))) == answer


def test_letters_are_moved_on() -> None:
    assert shifted("3" + "abcxyz") == "defabc"
    draw, question = random.Random(4), "2" + "a" * 4000
    wrong = sum(letter != "c" for letter in shifted(question, 0.05, draw))
    assert wrong / 4000 == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 4000) ** 0.5)
