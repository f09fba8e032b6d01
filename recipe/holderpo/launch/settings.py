"""What the environment says about the launch: which node this is, and the authors' environment variables. Pure functions."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from recipe.holderpo.config.errors import ConfigError

# The authors' environment variables (arXiv 2605.12058, their code) and the overrides that they stand for.
LEGACY_VARIABLES = {
    "HOLDER_P_SCHEDULE_STEPS": "holder.steps",
    "HOLDER_P_POWER": "holder.power",
}
# Their names of schedules -> (ours, whether p rises).
SCHEDULES = {
    "constant": ("constant", False),
    "linear": ("linear", False), "linear_desc": ("linear", False), "linear_asc": ("linear", True),
    "sin": ("cosine", False), "sin_desc": ("cosine", False), "sin_asc": ("cosine", True),
    "cosine": ("cosine", False), "cosine_desc": ("cosine", False), "cosine_asc": ("cosine", True),
    "square": ("power", False), "square_desc": ("power", False), "square_asc": ("power", True),
    "power": ("power", False), "power_desc": ("power", False), "power_asc": ("power", True),
    "cube": ("cubic", False), "cube_desc": ("cubic", False), "cube_asc": ("cubic", True),
}  # fmt: skip
MOST_NODES = 10**5


@dataclass(frozen=True)
class Node:
    """This node's place in the launch."""

    nodes: int = 1
    rank: int = 0
    """0 is the head: it runs the driver."""
    head: str = "127.0.0.1"
    """Address at which the other nodes reach the head."""
    address: str | None = None
    """This node's own address; None: Ray finds it."""
    port: int = 6379
    wait_s: float = 600.0
    """How long the head waits for the other nodes, and they for the head."""
    min_nodes: int | None = None
    """The run goes on with so many of them; None: with all alone."""

    @property
    def least(self) -> int:
        return self.nodes if self.min_nodes is None else self.min_nodes


def _whole(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    # int() and isdigit() know the digits of every script, and int() a limit of its own
    if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
        allowed = f"a whole number from {low} to {high}" if low < high else str(low)
        raise ConfigError(f"{name} is {_short(text)}; allowed is {allowed}")
    return int(text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")


def first_slurm_host(nodes: str) -> str:
    """The first host of a Slurm node list: gpu03 of gpu[03-06,9],login. There may be no scontrol, as in a container.

    Raises ConfigError where it is no such list."""
    first = re.match(r"(?:[\w.-]|\[[\d,-]+\])+(?=,|$)", nodes)
    if first is None:
        raise ConfigError(
            f"HEAD_ADDR is not set, and SLURM_JOB_NODELIST is {_short(nodes)}; allowed is a list of nodes"
        )
    return re.sub(r"\[(\d*)[\d,-]*\]", r"\1", first.group())


def address_of(name: str, host: str) -> str:
    """The IPv4 address of a host name, which Ray asks for. Raises ConfigError, which names the variable, if it has none."""
    try:
        address = socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:  # the latter where it cannot be a name at all
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{name} is {_short(host)}, which cannot be looked up ({why}); allowed is a host name or an IPv4 address"
        ) from None
    if address == "0.0.0.0":
        raise ConfigError(f"{name} is {_short(host)}; allowed is the address at which other nodes reach this one")
    if address.startswith("127.") and not re.fullmatch(r"[\d.]+", host):
        # /etc/hosts of Debian and Ubuntu: the node's own name is 127.0.1.1, where no other node can join
        raise ConfigError(
            f"{name} is {_short(host)}, which is {address} on this machine; allowed with several nodes is the address at "
            "which the others reach it"
        )
    return address


def read_node(environment: Mapping[str, str]) -> Node:
    """NNODES, MIN_NODES, NODE_RANK, HEAD_ADDR, NODE_ADDR, RAY_PORT and NODE_WAIT_S; where they are not set, Slurm's
    variables. An empty one is not set.

    Raises ConfigError with one line that names the variable."""
    merged = {name: value for name, value in environment.items() if value}
    slurm = "NNODES" not in merged and _whole(merged, "SLURM_NNODES", 1, 1, MOST_NODES) > 1
    if slurm:
        merged["NNODES"] = merged["SLURM_NNODES"]
        merged.setdefault("NODE_RANK", merged.get("SLURM_NODEID", ""))
        if "HEAD_ADDR" not in merged:
            merged["HEAD_ADDR"] = first_slurm_host(merged.get("SLURM_JOB_NODELIST", ""))
    elif not {"NNODES", "SLURM_NNODES"} & {*merged}:
        # one node of several whose number got lost must not train by itself
        for name in ("HEAD_ADDR", "SLURM_NODEID"):
            if merged.get(name, "0") != "0":
                raise ConfigError(f"NNODES is not set; allowed with {name}={merged[name]} is the number of nodes")
    nodes = _whole(merged, "NNODES", 1, 1, MOST_NODES)
    if nodes > 1 and not merged.get("NODE_RANK"):
        raise ConfigError(f"NODE_RANK is not set; allowed with NNODES={nodes} is 0 (the head) to {nodes - 1}")
    rank = _whole(merged, "NODE_RANK", 0, 0, nodes - 1)
    if nodes > 1 and not merged.get("HEAD_ADDR"):
        raise ConfigError(f"HEAD_ADDR is not set; allowed with NNODES={nodes} is the address of the node of rank 0")
    own = "NODE_ADDR" if "NODE_ADDR" in merged else "HEAD_ADDR" if rank == 0 and nodes > 1 else None
    return Node(
        nodes=nodes,
        rank=rank,
        head=merged.get("HEAD_ADDR") or "127.0.0.1",
        address=address_of(own, merged[own]) if own else None,
        port=_whole(merged, "RAY_PORT", 6379, 1, 65535),
        wait_s=float(_whole(merged, "NODE_WAIT_S", 600, 1, 10**6)),
        min_nodes=_whole(merged, "MIN_NODES", nodes, 1, nodes) if "MIN_NODES" in merged else None,
    )


def legacy_overrides(environment: Mapping[str, str]) -> list[str]:
    """The authors' environment variables as overrides of ours. Their p runs from HOLDER_P_MAX down to HOLDER_P_MIN, or up
    (`_asc`).

    Raises ConfigError for a schedule that they do not have either."""
    given = {name: value for name, value in environment.items() if value != ""}
    overrides = [f"{key}={given[name]}" for name, key in LEGACY_VARIABLES.items() if name in given]
    if "CLIPRANGE" in given:
        overrides += [f"actor_rollout_ref.actor.clip_ratio_{side}={given['CLIPRANGE']}" for side in ("low", "high")]
    anneals = [key for key in ("HOLDER_P_MIN", "HOLDER_P_MAX") if key in given]
    if "HOLDER_P" in given and (anneals or given.get("HOLDER_P_SCHEDULE", "constant") != "constant"):
        raise ConfigError(
            f"HOLDER_P is {given['HOLDER_P']!r}; allowed is a constant p alone, without a schedule or its ends"
        )
    name = given.get("HOLDER_P_SCHEDULE", "constant" if "HOLDER_P" in given else None)
    if name is not None and name not in SCHEDULES:
        raise ConfigError(f"HOLDER_P_SCHEDULE is {name!r}; allowed are {', '.join(SCHEDULES)}")
    shape, rising = SCHEDULES[name] if name is not None else (None, False)
    if shape is not None:
        overrides.append(f"holder.schedule={shape}")
    if shape == "constant":
        return [
            *overrides,
            "holder.p_end=null",
            *([f"holder.p_start={given['HOLDER_P']}"] if "HOLDER_P" in given else []),
        ]
    ends = ("HOLDER_P_MIN", "HOLDER_P_MAX") if rising else ("HOLDER_P_MAX", "HOLDER_P_MIN")
    overrides += [
        f"{key}={given[end]}" for key, end in zip(("holder.p_start", "holder.p_end"), ends, strict=True) if end in given
    ]
    return overrides
