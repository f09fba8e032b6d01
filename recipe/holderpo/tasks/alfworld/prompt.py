"""What the agent reads and how its answers are read."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recipe.holderpo.tasks.alfworld.environment import NOTHING_HAPPENS, Observation

MAX_OBSERVATION_WORDS = 12  # of an observation that had to be shortened

FULL = """You act in a household that you can only read about and change by commands.
Task: {task}
{history}Step {step}. What you see now: {observation}
Commands that are possible now:
{commands}
First think about what to do next, between <think> and </think>. \
Then give exactly one of the possible commands between <action> and </action>."""
FULL_HISTORY = "Steps so far: {count}. The last {shown} of them:\n{turns}\n"
FULL_TURN = "Step {step}: you saw: {observation} You did: {command}"

# For small models that were trained on this form: the same content, hardly any words.
COMPACT = "task: {task}\n{history}{observation}\ncan: {commands}"
COMPACT_TURN = "{observation}\n> {command}\n"

STYLES = ("full", "compact")
_WELCOME = re.compile(r"^-= Welcome to TextWorld, ALFRED! =-\s*|\s*Your task is to: .*$", re.DOTALL)
_ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)
_THINK = re.compile(r"<think>.*?</think>", re.DOTALL)


class PromptTooLong(ValueError):
    """The prompt exceeds its bound even without history."""


@dataclass(frozen=True)
class Turn:
    """A step of the past: what the agent saw, and the command it gave."""

    observation: str
    command: str


@dataclass(frozen=True)
class Answer:
    """An answer of the model. `command` is None where the format is wrong; `admissible` says whether it can be given."""

    command: str | None
    admissible: bool


def task_of(first_observation: str) -> str:
    """The task, from the first observation.

    Raises:
        ValueError: it states none.
    """
    _, mark, task = first_observation.partition("Your task is to: ")
    if not mark:
        raise ValueError(f"no task in {first_observation!r}")
    return task.strip()


def scene(text: str) -> str:
    """An observation without the welcome line and the task, on one line."""
    return " ".join(_WELCOME.sub("", text).split())


def offered(observation: Observation) -> tuple[str, ...]:
    """The commands that the agent is shown: `help` lists commands that may not be possible, so it is left out."""
    return tuple(command for command in observation.admissible_commands if command != "help")


def read_answer(text: str, observation: Observation) -> Answer:
    """Find the command in an answer: one <think>...</think>, then exactly one <action>...</action>.

    Case and spaces in the command do not matter. An answer without thought, with several actions or none, or with an
    action before its thought has the wrong format.
    """
    thoughts, actions = list(_THINK.finditer(text)), list(_ACTION.finditer(text))
    if len(thoughts) != 1 or len(actions) != 1 or actions[0].start() < thoughts[0].end():
        return Answer(None, False)
    command = " ".join(actions[0].group(1).lower().split())
    return Answer(command, command in offered(observation))


def write_answer(thought: str, command: str) -> str:
    """An answer in the format that `read_answer` reads, for supervised examples."""
    return f"<think>{thought}</think><action>{command}</action>"


def step_prompt(style: str, task: str, turns: Sequence[Turn], done: int, observation: Observation) -> str:
    """The prompt of one step: the task, the latest turns, what is seen now, and the admissible commands.

    Args:
        style: full | compact.
        turns: those to be shown, oldest first.
        done: steps so far (at least as many as are shown).
    """
    now, commands = scene(observation.text), offered(observation)
    if style == "compact":
        history = "".join(COMPACT_TURN.format(observation=t.observation, command=t.command) for t in turns)
        return COMPACT.format(task=task, history=history, observation=now, commands="; ".join(commands))
    lines = [
        FULL_TURN.format(step=done - len(turns) + i + 1, observation=t.observation, command=t.command)
        for i, t in enumerate(turns)
    ]
    history = FULL_HISTORY.format(count=done, shown=len(turns), turns="\n".join(lines)) if turns else ""
    listed = "\n".join(f"- {command}" for command in commands)
    return FULL.format(task=task, history=history, step=done + 1, observation=now, commands=listed)


def next_message(style: str, observation: Observation) -> str:
    """What the environment says next in a conversation that holds the earlier turns already."""
    now, commands = scene(observation.text), offered(observation)
    if style == "compact":
        return f"{now}\ncan: {'; '.join(commands)}"
    return f"{now}\nCommands that are possible now:\n" + "\n".join(f"- {command}" for command in commands)


def fitted_prompt(
    style: str, task: str, turns: Sequence[Turn], history: int, observation: Observation, fits: Callable[[str], bool]
) -> str:
    """The prompt of a step with as many of the last `history` turns as fit.

    If it does not fit without any, the observation is shortened. The task and the admissible commands are never cut.

    Raises:
        PromptTooLong: task and commands alone do not fit.
    """
    shown = list(turns[-history:]) if history else []
    while True:
        prompt = step_prompt(style, task, shown, len(turns), observation)
        if fits(prompt):
            return prompt
        if not shown:
            break
        shown = shown[1:]
    words = scene(observation.text).split()
    short = " ".join([*words[:MAX_OBSERVATION_WORDS], "..."])
    prompt = step_prompt(
        style, task, [], len(turns), Observation(short, observation.admissible_commands, observation.won)
    )
    if not fits(prompt):
        raise PromptTooLong(
            f"the task and its {len(observation.admissible_commands)} admissible commands alone exceed "
            "data.max_prompt_length; raise it"
        )
    return prompt


def invalid_observation(observation: Observation) -> Observation:
    """What follows on an answer that is no admissible command: the world stays as it is."""
    return Observation(NOTHING_HAPPENS, observation.admissible_commands, won=False)
