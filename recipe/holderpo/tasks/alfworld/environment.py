"""One ALFWorld game at a time, in this process: the plain environment of ALFWorld, and a fast one with the same observations.

The plain one parses the grammar anew for every game and for every admissible command of every step, and translates the
planning problem at every reset. Here a game is prepared once (`prepare`) and shared by all its episodes, and a ground
action's command, which depends on constant facts alone, is derived once per game. `benchmarks/environments.py` compares them.
"""

import copy
import functools
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fast_downward
import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos
from textworld.envs.pddl import PddlEnv
from textworld.envs.pddl.logic import GameLogic, PddlState

NOTHING_HAPPENS = "Nothing happens."  # what the environment says to a command that is not admissible
TASK_LINE = re.compile(r"Your task is to: ([^\"\\]*)")
TASK_MARK = "@task@"
PREPARED_GAMES = 64  # kept in memory, a few MB each for full rooms


@dataclass(frozen=True)
class Observation:
    """What the agent sees after a reset or a step."""

    text: str
    admissible_commands: tuple[str, ...]  # sorted
    won: bool


def plain_environment() -> Any:
    """ALFWorld's own environment for one game at a time: load(file), reset(), step(command)."""
    infos = textworld.EnvInfos(won=True, admissible_commands=True, extras=["gamefile"])
    return AlfredInfos(AlfredDemangler(PddlEnv(infos)))


@functools.lru_cache(maxsize=4)
def _logic(domain: str, grammar: str) -> GameLogic:
    """The parsed grammar; that of all games is the same but for the task, which is masked."""
    return GameLogic(domain=domain, grammar=grammar)


class _Loaded(PddlEnv):
    """PddlEnv.load with the shared logic in the place of a parse."""

    def load(self, filename_or_data: Any) -> None:
        self._logic = _logic(filename_or_data["pddl_domain"], filename_or_data["grammar"])
        self._pddl_state = PddlState(self.downward_lib, filename_or_data["pddl_problem"], self._logic)
        self._entity_infos = self._get_entity_infos()


@dataclass
class PreparedGame:
    """What all episodes of a game share. `commands` fills as ground actions are met."""

    task: str
    state: PddlState  # at the start; episodes work on copies
    entity_infos: dict[str, Any]
    commands: dict[str, tuple[str, Any]] = field(default_factory=dict)  # ground action -> command, textworld Action


@functools.lru_cache(maxsize=1)
def _loader() -> AlfredDemangler:
    return AlfredDemangler(_Loaded())


@functools.lru_cache(maxsize=PREPARED_GAMES)
def prepare(game_file: Path) -> PreparedGame:
    """Read, parse and translate a game.

    Raises:
        ValueError: the file is not a game that states its task.
    """
    data = json.loads(Path(game_file).read_text())
    match = TASK_LINE.search(data["grammar"])
    if match is None:
        raise ValueError(f"{game_file}: its grammar has no 'Your task is to: ...'")
    loader, arguments = _loader(), sys.argv
    begin, end = match.span(1)
    try:
        loader.load(data | {"grammar": data["grammar"][:begin] + TASK_MARK + data["grammar"][end:]})
    finally:
        sys.argv = arguments  # the translation leaves its own there
    return PreparedGame(match.group(1), loader.unwrapped._pddl_state, loader.unwrapped._entity_infos)


class FastEnvironment:
    """One episode at a time; the object, which holds a copy of the planner's library, is used for many."""

    def __init__(self) -> None:
        self._library = fast_downward.load_lib()

    def reset(self, game_file: Path) -> Observation:
        """Begin an episode of the game."""
        game = self._game = prepare(game_file)
        state = self._state = copy.copy(game.state)
        state.downward_lib = self._library
        state._facts = copy.deepcopy(game.state._facts, {})
        state._vars_by_name = dict(game.state._vars_by_name)
        state._vars_by_type = copy.copy(game.state._vars_by_type)
        state._var_counts = game.state._var_counts.copy()
        self._library.load_sas(state.sas.encode())
        text = self._derive("#intro#", {}).replace(TASK_MARK, game.task)
        return self._observe(text)

    def step(self, command: str) -> Observation:
        """Give a command; one that is not admissible changes nothing."""
        operator = self._operators.get(command.strip())
        if operator is None:
            return self._observe(NOTHING_HAPPENS)
        action = copy.copy(self._game.commands[operator.name][1])
        action.id = operator.id
        self._state._operators = {operator.id: operator}
        self._state.apply(action)
        return self._observe(self._derive(action.feedback_rule, action.mapping))

    def _observe(self, text: str) -> Observation:
        operators = (fast_downward.Operator * self._library.get_applicable_operators_count())()
        self._library.get_applicable_operators(operators)
        self._operators: dict[str, Any] = {}
        for operator in operators:
            if operator.name not in self._game.commands:
                self._game.commands[operator.name] = self._ground(operator)
            self._operators.setdefault(self._game.commands[operator.name][0], operator)
        return Observation(text, tuple(sorted(self._operators)), bool(self._state.check_goal()))

    def _ground(self, operator: Any) -> tuple[str, Any]:
        """The command of a ground action. Its template asks for constant facts at most: where a receptacle stands."""
        state = self._state
        name, *arguments = operator.name.split()
        parameters = state._actions[name].parameters
        action = textworld.logic.Action(name=name, preconditions=[], postconditions=[])
        action.mapping = {
            textworld.logic.Placeholder(p.name.strip("?"), p.type_name): textworld.logic.Variable(arg, p.type_name)
            for p, arg in zip(parameters, arguments, strict=False)
        }
        action.command_template = self._derive(state._logic.actions[name].template, action.mapping)
        action.feedback_rule = state._logic.actions[name].feedback_rule
        names = {key: info.name for key, info in self._game.entity_infos.items()}
        return action.format_command(names), action

    def _derive(self, symbol: str, mapping: dict[Any, Any]) -> str:
        infos = self._game.entity_infos
        context = {
            "state": self._state,
            "facts": list(self._state.facts),
            "variables": {placeholder.name: infos[variable.name] for placeholder, variable in mapping.items()},
            "mapping": mapping,
            "entity_infos": infos,
        }
        return str(self._state._logic.grammar.derive(symbol, context))
