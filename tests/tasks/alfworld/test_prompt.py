"""The prompt keeps what must not be lost, and the parser takes nothing for a command that is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.holderpo.tasks.alfworld.environment import Observation
from recipe.holderpo.tasks.alfworld.prompt import (
    STYLES,
    Answer,
    Turn,
    fitted_prompt,
    invalid_observation,
    next_message,
    offered,
    read_answer,
    scene,
    step_prompt,
    task_of,
    write_answer,
)

# As the environment says it.
FIRST = Observation(
    "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see a bed 1, "
    "a desk 1, and a drawer 1.\n\nYour task is to: examine the book with the desklamp.",
    ("go to bed 1", "go to desk 1", "go to drawer 1", "help", "inventory", "look"),
    won=False,
)
LATER = Observation("You open the drawer 1. The drawer 1 is open. In it, you see a book 1.", (
    "close drawer 1", "examine drawer 1", "go to bed 1", "go to desk 1", "help", "inventory", "look",
    "take book 1 from drawer 1",
), won=False)  # fmt: skip


def test_what_the_first_observation_says() -> None:
    assert task_of(FIRST.text) == "examine the book with the desklamp."
    assert scene(FIRST.text) == (
        "You are in the middle of a room. Looking quickly around you, you see a bed 1, a desk 1, and a drawer 1."
    )
    assert scene(LATER.text) == LATER.text
    with pytest.raises(ValueError, match="no task"):
        task_of(LATER.text)


def test_the_prompts_wording() -> None:
    turns = [Turn("You are in a room.", "go to drawer 1"), Turn("You arrive at drawer 1.", "open drawer 1")]
    assert step_prompt("compact", "examine the book.", turns, 5, LATER) == (
        "task: examine the book.\n"
        "You are in a room.\n> go to drawer 1\n"
        "You arrive at drawer 1.\n> open drawer 1\n"
        "You open the drawer 1. The drawer 1 is open. In it, you see a book 1.\n"
        "can: close drawer 1; examine drawer 1; go to bed 1; go to desk 1; inventory; look; take book 1 from drawer 1"
    )
    full = step_prompt("full", "examine the book.", turns, 5, LATER)
    assert "Task: examine the book.\nSteps so far: 5. The last 2 of them:\n" in full
    assert "Step 4: you saw: You are in a room. You did: go to drawer 1\nStep 5: you saw: You arrive" in full
    assert "Step 6. What you see now: You open the drawer 1." in full
    assert "\n- take book 1 from drawer 1\n" in full and "- help" not in full
    assert "Steps so far" not in step_prompt("full", "examine the book.", [], 0, FIRST)
    assert next_message("compact", FIRST) == f"{scene(FIRST.text)}\ncan: {'; '.join(offered(FIRST))}"


turns = st.lists(st.builds(Turn, st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=20)), max_size=12)


@given(turns, st.sampled_from(STYLES), st.integers(0, 12), st.integers(0, 900))
def test_a_bounded_prompt_never_loses_task_or_commands(turns: list[Turn], style: str, history: int, spare: int) -> None:
    task = "put a hot mug in cabinet."
    least = step_prompt(style, task, [], len(turns), Observation("...", LATER.admissible_commands, won=False))
    limit = len(least) + 100 + spare
    prompt = fitted_prompt(style, task, turns, history, LATER, lambda text: len(text) <= limit)
    assert len(prompt) <= limit
    assert task in prompt and all(command in prompt for command in offered(LATER))
    shown = [list(turns[len(turns) - k :]) for k in range(min(history, len(turns)), -1, -1)]
    whole = [step_prompt(style, task, part, len(turns), LATER) for part in shown]
    fitting = [text for text in whole if len(text) <= limit]
    if fitting:  # the most history that fits, the newest turns first
        assert prompt == fitting[0]
    else:
        assert "You open the drawer" in prompt and "..." in prompt


def test_task_and_commands_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="max_prompt_length"):
        fitted_prompt("full", "put a mug in cabinet.", [], 2, LATER, lambda text: len(text) < 100)


@pytest.mark.parametrize(
    ("text", "command", "admissible"),
    [
        ("<think>the lamp</think><action>go to desk 1</action>", "go to desk 1", True),
        ("<think>a\nb</think>\n<action>  Go  to\tDESK 1 </action>\n", "go to desk 1", True),
        ("<think></think><action>go to desk 2</action>", "go to desk 2", False),  # there is none
        ("<think></think><action>help</action>", "help", False),  # not offered
        ("<action>go to desk 1</action>", None, False),  # no thought
        ("<think>x</think>go to desk 1", None, False),
        ("<think>x</think><action>go to desk 1", None, False),  # cut off
        ("<think>x</think><action>look</action><action>go to desk 1</action>", None, False),
        ("<action>look</action><think>x</think>", None, False),
        ("<think>x</think><think>y</think><action>look</action>", None, False),
        ("<think><action>look</action></think>", None, False),
        ("", None, False),
    ],
)
def test_reading_answers(text: str, command: str | None, admissible: bool) -> None:
    assert read_answer(text, FIRST) == Answer(command, admissible)


@given(st.sampled_from(offered(LATER)), st.text(alphabet=st.characters(exclude_characters="<>"), max_size=50))
def test_what_is_written_is_read(command: str, thought: str) -> None:
    assert read_answer(write_answer(thought, command), LATER) == Answer(command, True)


@given(st.text(max_size=200))
def test_no_text_makes_the_parser_fail_or_invent(text: str) -> None:
    answer = read_answer(text, LATER)
    assert not answer.admissible or (answer.command in LATER.admissible_commands and "<action>" in text)


def test_a_refused_answer_changes_nothing() -> None:
    after = invalid_observation(LATER)
    assert (after.text, after.admissible_commands, after.won) == ("Nothing happens.", LATER.admissible_commands, False)
