"""Rooms, tasks in them, and the planning problems of the two, drawn at random from what ALFWorld's own wheel allows.

A room layout is a kind (kitchen, ...) and its receptacles; a combination is a task type with its object and destination;
a game puts a combination into a layout and objects into receptacles. Everything follows from a `random.Random`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from alfworld.gen import constants
from alfworld.gen.goal_library import gdict

OPENABLE = constants.OPENABLE_CLASS_SET
FITS: dict[str, set[str]] = constants.VAL_RECEPTACLE_OBJECTS
ACTIONS: dict[str, set[str]] = constants.VAL_ACTION_OBJECTS

# Official object ids: the basin of a sink is a part of it, and ALFWorld's names come from the first part.
ID_STEMS = {"SinkBasin": "Sink_bar_1_bar_SinkBasin", "BathtubBasin": "Bathtub_bar_1_bar_BathtubBasin"}


@dataclass(frozen=True)
class RoomKind:
    """What a kind of room has always, may have, and which objects lie about in it."""

    always: tuple[str, ...]
    maybe: tuple[str, ...]
    objects: tuple[str, ...]


# fmt: off
ROOM_KINDS = {
    "Kitchen": RoomKind(
        ("SinkBasin", "Fridge", "Microwave", "CounterTop"),
        ("Cabinet", "Drawer", "DiningTable", "CoffeeMachine", "StoveBurner", "GarbageCan", "Shelf", "SideTable"),
        ("Apple", "Tomato", "Potato", "Egg", "Lettuce", "Bread", "Mug", "Cup", "Bowl", "Plate", "Pan", "Pot", "Kettle",
         "Knife", "ButterKnife", "Fork", "Spoon", "Spatula", "Ladle", "SaltShaker", "PepperShaker", "DishSponge"),
    ),
    "LivingRoom": RoomKind(
        ("CoffeeTable", "Sofa"),
        ("ArmChair", "SideTable", "Dresser", "Drawer", "Cabinet", "Shelf", "GarbageCan", "Safe"),
        ("Book", "RemoteControl", "CreditCard", "KeyChain", "Newspaper", "Laptop", "Pillow", "Watch", "Vase", "Statue",
         "CellPhone", "TissueBox"),
    ),
    "Bedroom": RoomKind(
        ("Bed", "Desk"),
        ("SideTable", "Dresser", "Drawer", "Shelf", "Safe", "GarbageCan", "ArmChair", "Cabinet"),
        ("Book", "AlarmClock", "Pencil", "Pen", "CD", "CellPhone", "Laptop", "CreditCard", "KeyChain", "Mug", "Bowl",
         "Pillow"),
    ),
    "Bathroom": RoomKind(
        ("SinkBasin", "Toilet"),
        ("CounterTop", "Cabinet", "BathtubBasin", "GarbageCan", "Drawer", "Shelf", "Cart", "ToiletPaperHanger"),
        ("SoapBar", "SoapBottle", "Cloth", "SprayBottle", "ToiletPaper", "Candle", "HandTowel", "TissueBox"),
    ),
}
# fmt: on

# task type -> the action (a key of VAL_ACTION_OBJECTS) and the receptacle that it needs
TOOLS = {
    "pick_clean_then_place_in_recep": ("Cleanable", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("Heatable", "Microwave"),
    "pick_cool_then_place_in_recep": ("Coolable", "Fridge"),
}
LAMPS = {"LivingRoom": "FloorLamp", "Bedroom": "DeskLamp"}
# What a lamp may stand on (the wheel lists lamps under no receptacle, since they cannot be moved).
LAMP_STANDS = ("SideTable", "Desk", "Dresser", "CoffeeTable", "Shelf")


@dataclass(frozen=True)
class Combination:
    """A task: what is to be brought where, in which kind of room. `destination` is the lamp for look_at_obj_in_light."""

    task_type: str
    kind: str
    object: str
    destination: str


def combinations(task_type: str) -> list[Combination]:
    """Every combination of a task type that the wheel's tables allow, in a fixed order."""
    found = []
    for kind, room in ROOM_KINDS.items():
        for name in room.objects:
            if task_type == "look_at_obj_in_light":
                places = tuple(lamp for place, lamp in LAMPS.items() if place == kind)
            elif task_type in TOOLS:
                action, tool = TOOLS[task_type]
                usable = tool in room.always and name in ACTIONS[action]
                places = tuple(p for p in room.always + room.maybe if usable and p != tool and name in FITS[p])
            else:
                places = tuple(p for p in room.always + room.maybe if name in FITS[p])
            found += [Combination(task_type, kind, name, place) for place in places]
    return found


@dataclass(frozen=True)
class Size:
    """How large a game is: receptacles (at least; a task's own come on top), objects that lie about beside the task's."""

    receptacles: tuple[int, int]
    distractors: tuple[int, int]


SIZES = {"tiny": Size((3, 4), (0, 1)), "small": Size((7, 9), (5, 8)), "full": Size((14, 18), (18, 26))}


@dataclass(frozen=True)
class Game:
    """A combination in a room: object ids, where they are at first, and the planning problem."""

    combination: Combination
    layout: int
    receptacles: tuple[str, ...]  # ids
    places: dict[str, str]  # object id -> receptacle id
    targets: tuple[str, ...]  # ids of the objects that the walkthrough moves
    lamp: str | None


def type_of(identity: str) -> str:
    """MugType's Mug of Mug_bar_2, SinkBasin of Sink_bar_1_bar_SinkBasin."""
    parts = identity.split("_bar_")
    return parts[2] if len(parts) == 3 else parts[0]


def _identity(name: str, number: int) -> str:
    return ID_STEMS.get(name, f"{name}_bar_{number}")


def draw_game(combination: Combination, layout: int, size: Size, seed: int) -> Game:
    """A game: the layout's receptacles depend on (kind, layout, size) alone, the objects on the seed too.

    What the task needs beyond the layout (a destination that the room lacks) is added to it.
    """
    kind = ROOM_KINDS[combination.kind]
    plan = random.Random(f"{combination.kind}/{layout}/{size}")
    names = _layout_names(kind, size, plan)
    needs = [TOOLS[combination.task_type][1]] if combination.task_type in TOOLS else []
    looks = combination.task_type == "look_at_obj_in_light"
    needs += [] if looks else [combination.destination]
    names += [name for name in dict.fromkeys(needs) if name not in names]
    if looks and not any(name in LAMP_STANDS for name in names):
        names.append("SideTable" if combination.kind == "LivingRoom" else "Desk")
    draw = random.Random(f"{seed}/{combination}/{layout}/{size}")
    start_types = [n for n in names if n != combination.destination and combination.object in FITS[n]]
    if not start_types:
        extra = [n for n in kind.always + kind.maybe if n != combination.destination and combination.object in FITS[n]]
        start_types = [draw.choice(extra)]
        names += start_types
    receptacles = [_identity(name, names[: i + 1].count(name)) for i, name in enumerate(names)]
    places: dict[str, str] = {}

    def put(name: str, candidates: Sequence[str]) -> str:
        identity = _identity(name, 1 + sum(type_of(o) == name for o in places))
        places[identity] = draw.choice(candidates)
        return identity

    count = 2 if combination.task_type == "pick_two_obj_and_place" else 1
    starts = [r for r in receptacles if type_of(r) in start_types]
    targets = tuple(put(combination.object, starts) for _ in range(count))
    lamp = put(combination.destination, [r for r in receptacles if type_of(r) in LAMP_STANDS]) if looks else None
    for _ in range(draw.randint(*size.distractors)):
        # Not the task's own object: a second one in its destination would change how hard the task is.
        name = draw.choice([n for n in kind.objects if n != combination.object])
        candidates = [r for r in receptacles if name in FITS[type_of(r)]]
        if candidates:
            put(name, candidates)
    return Game(combination, layout, tuple(receptacles), places, targets, lamp)


def _layout_names(kind: RoomKind, size: Size, plan: random.Random) -> list[str]:
    """Receptacle types of a room; cabinets, drawers and shelves come in several."""
    count = plan.randint(*size.receptacles)
    names = list(kind.always)
    plan.shuffle(names)
    names = names[: count - 1] if count <= len(names) else names  # tiny rooms lack some; a task adds what it needs
    several = [n for n in ("Cabinet", "Drawer", "Shelf", "StoveBurner") if n in kind.maybe]
    while len(names) < count:
        rest = [n for n in kind.maybe if n not in names]
        names.append(plan.choice(rest if rest and plan.random() < 0.6 else several))
    return names


def task_text(game: Game, draw: random.Random) -> str:
    """The task in words, by one of ALFWorld's own templates."""
    c = game.combination
    template = draw.choice(gdict[c.task_type]["templates"])
    words = {"obj": c.object, "recep": c.destination, "toggle": c.destination, "mrecep": ""}
    return str(template.format(**{key: word.lower() for key, word in words.items()}))


def problem(game: Game) -> str:
    """The PDDL problem of a game in ALFWorld's domain."""
    c = game.combination
    objects = list(game.places)
    object_types, receptacle_types = sorted(set(map(type_of, objects))), sorted(set(map(type_of, game.receptacles)))
    locations = {r: f"loc_bar_{i + 1}" for i, r in enumerate(game.receptacles)}
    declared = chain(
        ["agent1 - agent", "loc_bar_0 - location"],
        (f"{place} - location" for place in locations.values()),
        (f"{r} - receptacle" for r in game.receptacles),
        (f"{o} - object" for o in objects),
        (f"{t}Type - rtype" for t in receptacle_types),
        (f"{t}Type - otype" for t in object_types),
    )
    facts = ["(= (total-cost) 0)", "(atLocation agent1 loc_bar_0)"]
    for r, location in locations.items():
        facts += [f"(receptacleType {r} {type_of(r)}Type)", f"(receptacleAtLocation {r} {location})"]
        facts += [f"(openable {r})"] if type_of(r) in OPENABLE else []
    facts += [f"(canContain {r}Type {o}Type)" for r in receptacle_types for o in object_types if o in FITS[r]]
    for o, r in game.places.items():
        name = type_of(o)
        facts += [f"(objectType {o} {name}Type)", f"(inReceptacle {o} {r})", f"(objectAtLocation {o} {locations[r]})"]
        facts += [f"({action.lower()} {o})" for action in sorted(ACTIONS) if name in ACTIONS[action]]
        facts += [f"(pickupable {o})"] if name not in ACTIONS["Toggleable"] else []
    goal = gdict[c.task_type]["pddl"].replace("#", "-").format(obj=c.object, recep=c.destination, toggle=c.destination)
    lines = "\n".join(f"    {line}" for line in declared), "\n".join(f"    {fact}" for fact in facts)
    return f"(define (problem generated)\n(:domain alfred)\n(:objects\n{lines[0]}\n)\n(:init\n{lines[1]}\n)\n{goal.strip()}"


def walkthrough(game: Game, names: dict[str, str]) -> list[str]:
    """Commands that solve the game for somebody who knows where everything is.

    Args:
        names: the environment's name of each object and receptacle, by lower-case id.
    """
    c, commands = game.combination, list[str]()
    opened: set[str] = set()
    here = ""

    def name(identity: str) -> str:
        return names[identity.lower()]

    def go(receptacle: str, touch: bool = True) -> None:
        nonlocal here
        if receptacle != here:
            commands.append(f"go to {name(receptacle)}")
        here = receptacle
        if touch and type_of(receptacle) in OPENABLE and receptacle not in opened:
            commands.append(f"open {name(receptacle)}")
            opened.add(receptacle)

    def nearest(kind: str) -> str:
        return next(r for r in game.receptacles if type_of(r) == kind)

    for target in game.targets:
        go(game.places[target])
        commands.append(f"take {name(target)} from {name(game.places[target])}")
        if game.lamp is not None:
            go(game.places[game.lamp], touch=False)
            commands.append(f"use {name(game.lamp)}")
            continue
        if c.task_type in TOOLS:
            action, kind = TOOLS[c.task_type]
            go(nearest(kind), touch=False)
            commands.append(f"{action.removesuffix('able').lower()} {name(target)} with {name(nearest(kind))}")
        go(nearest(c.destination))
        commands.append(f"move {name(target)} to {name(nearest(c.destination))}")
    return commands
