"""Schedules that anneal p over a run (section 3.4 and Table 5 of arXiv 2605.12058)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeGuard

Shape = Literal["constant", "linear", "cosine", "power", "cubic"]
SHAPES: tuple[Shape, ...] = ("constant", "linear", "cosine", "power", "cubic")


@dataclass(frozen=True)
class Schedule:
    """p as a function of the training step, from p_start to p_end in either direction.

    With u the progress through the schedule, 0 at its first step and 1 at its last,
    p = p_start + (p_end - p_start) f(u), where f is

    - "constant": 0 (p stays p_start; p_end must be None or the same)
    - "linear":   u
    - "cosine":   (1 - cos(pi u)) / 2                  slow, fast, slow
    - "power":    u^power                              slow at first for power > 1
    - "cubic":    (1 + (2 u - 1)^3) / 2                fast, slow around the midpoint, fast

    which are the ascending and the descending rows of Table 5. There u = step / T; here u = step / (T - 1), so that the
    first step uses exactly p_start and the last exactly p_end.

    Fields (config keys `holder.schedule`, `holder.p_start`, `holder.p_end`, `holder.steps`, `holder.power`):
        shape: one of `SHAPES`.
        p_start: p of the first step; finite, or inf or -inf where the shape is "constant".
        p_end: p of the last step; finite.
        steps: length of the schedule in steps, at least 2, after which p stays p_end; None: the whole run.
        power: exponent of the shape "power", above 0; None means 2 there, and is the only value elsewhere.

    Raises ValueError for anything else, with one line for each wrong value: its key, the value and what is allowed.
    """

    shape: Shape
    p_start: float
    p_end: float | None = None
    steps: int | None = None
    power: float | None = None

    def __post_init__(self) -> None:
        errors = list(self._errors())
        if errors:
            raise ValueError("\n".join(errors))

    def _errors(self) -> Iterator[str]:
        """A line for each wrong value."""
        if self.shape not in SHAPES:
            yield f"holder.schedule is {self.shape!r}; allowed are {', '.join(SHAPES)}"
        constant = self.shape == "constant"
        if not _is_number(self.p_start):
            yield f"holder.p_start is {self.p_start!r}; allowed is a number"
        elif constant and math.isnan(self.p_start):
            yield "holder.p_start is nan; allowed is any real number, inf and -inf"
        elif not constant and not math.isfinite(self.p_start):
            yield f"holder.p_start is {self.p_start}; allowed is a finite number unless holder.schedule is constant"
        if constant and self.p_end is not None and self.p_end != self.p_start:
            yield f"holder.p_end is {self.p_end} while holder.schedule is constant; allowed is null or holder.p_start"
        elif not constant and self.p_end is None:
            yield f"holder.p_end is null; holder.schedule={self.shape} needs a finite number"
        elif not constant and not (_is_number(self.p_end) and math.isfinite(self.p_end)):
            yield f"holder.p_end is {self.p_end!r}; allowed is a finite number"
        if self.steps is not None and (not _is_int(self.steps) or self.steps < 2):
            yield f"holder.steps is {self.steps!r}; allowed is an integer of at least 2, or null (whole run)"
        if self.power is not None and self.shape != "power":
            yield f"holder.power is {self.power} while holder.schedule is {self.shape}; allowed is null"
        elif self.power is not None and not (_is_number(self.power) and 0 < self.power < math.inf):
            yield f"holder.power is {self.power!r}; allowed is a finite number above 0"

    def p_at(self, step: int, total_steps: int) -> float:
        """p of training step `step`, counted from 0, in a run of `total_steps` steps.

        p_start at step 0, p_end at the schedule's last step and after. A run of one step uses p_start. `total_steps` is
        the schedule's length where `steps` is None, and has no effect otherwise.

        Raises ValueError for a step that is not an integer >= 0 or a total that is not an integer >= 1."""
        if not _is_int(step) or step < 0:
            raise ValueError(f"step is {step!r}; allowed is an integer of at least 0")
        if not _is_int(total_steps) or total_steps < 1:
            raise ValueError(f"total_steps is {total_steps!r}; allowed is an integer of at least 1")
        last = (total_steps if self.steps is None else self.steps) - 1
        if self.shape == "constant" or self.p_end is None or step == 0 or last == 0:
            return float(self.p_start)
        if step >= last:
            return float(self.p_end)
        p = self.p_start + (self.p_end - self.p_start) * self._fraction(step / last)
        return min(max(p, min(self.p_start, self.p_end)), max(self.p_start, self.p_end))

    def _fraction(self, u: float) -> float:
        """f(u): the share of the way from p_start to p_end, for progress 0 < u < 1."""
        if self.shape == "linear":
            return u
        if self.shape == "cosine":
            return (1 - math.cos(math.pi * u)) / 2
        if self.shape == "power":
            return math.pow(u, 2.0 if self.power is None else self.power)
        return (1 + (2 * u - 1) ** 3) / 2  # cubic


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
