"""What runs in a grading process: math-verify behind a guard, without time limits of its own (the host kills the process).

The text comes from a model. math-verify's symbolic back end turns text into sympy expressions, and one road from there
ends in `exec`: sympy's evalf compiles symbol names by way of lambdify. `protect` closes that road. Because it is one road
only, it also takes from the process what an attacker could use: files, sockets, children, memory.
"""

import contextlib
import ctypes
import importlib
import pkgutil
import re
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

from recipe.holderpo.rewards.grading import seccomp

PR_SET_PDEATHSIG = 1
# What sympy imports where it is installed and verification has no use for: seconds of work, hundreds of megabytes, and
# threads, which a process that forks must not have.
_OPTIONAL = ("IPython", "lark", "llvmlite", "matplotlib", "numpy", "pytest", "scipy", "torch")
# sympy's modules that verification has no use for.
_NOT_NEEDED = re.compile(
    r"\.(tests?|benchmarks|plotting|interactive|testing|physics|codegen|sandbox|conftest|this|deprecated|__main__)\b"
    r"|\.parsing\.|utilities\.(runtests|tmpfiles|pytest|randtest|benchmarking|quality_unicode)"
)


def install_guard() -> None:
    """Close sympy's road from an expression to `exec`. Raises RuntimeError if this sympy has it elsewhere."""
    import sympy.core.evalf

    if not hasattr(sympy.core.evalf, "lambdify"):
        raise RuntimeError(
            "this sympy has no sympy.core.evalf.lambdify to guard; review recipe/holderpo/rewards/grading/verify.py"
        )

    def refuse(*args: object, **kwargs: object) -> None:
        raise NotImplementedError("lambdify is disabled while untrusted text is graded")

    sympy.core.evalf.lambdify = refuse


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def protect(memory_mb: int) -> None:
    """Make this process, warmed up before, fit to read untrusted text. To be called once, where nothing else is done.

    Afterwards it has the guard on and at most `memory_mb` of address space; it cannot open a file or a socket, start or
    signal a process or read another's memory (seccomp); it dies with its parent. Raises OSError without seccomp."""
    install_guard()
    end_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seccomp.deny()


def warm_up() -> None:
    """Import all that verification may import later: a protected process cannot open files."""
    for name in _OPTIONAL:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # an import of it is an ImportError from now on
    for name in ("sympy", "mpmath"):
        _import_all(importlib.import_module(name))
    for gold, answer in (
        ("\\frac{1}{2}", "0.5"),
        ("\\sqrt{2}", "2^{1/2}"),
        ("(1,2]", "[1,2]"),
        ("x=3", "y"),
        ("\\{1,2\\}", "1,2"),
    ):
        verify(answer, gold)


def _import_all(package: ModuleType) -> None:
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not _NOT_NEEDED.search(found.name):
            try:
                module = importlib.import_module(found.name)
            except Exception:  # an optional dependency is missing: verification could not use it either
                continue
            if found.ispkg:
                _import_all(module)


def verify(answer: str, truth: str) -> bool | None:
    """Whether math-verify finds the two equal; None if it cannot read the answer (or the truth).

    Raises MemoryError where memory ran out, and what else math-verify or sympy raised where they failed, unless they
    found the two equal in another way."""
    try:
        with _memory_errors_uncaught():
            return _verify(answer, truth, raise_on_error=True)
    except Exception:
        # One way of reading or comparing failed. With errors swallowed math-verify tries the others; equal is equal then,
        # but "not equal" would hide the failure.
        if _verify(answer, truth, raise_on_error=False):
            return True
        raise


@contextlib.contextmanager
def _memory_errors_uncaught() -> Iterator[None]:
    """Within, `except Exception` does not catch a MemoryError. math-verify has a dozen of these around sympy and goes on
    to say "not equal", whatever raise_on_error is: memory that ran out would make an answer wrong instead of a fault.

    `except` looks for its class in MemoryError.__mro__, which Python does not let anyone change, hence ctypes: BaseException
    stands in Exception's place there. Raises RuntimeError if this Python has it elsewhere."""
    classes = MemoryError.__mro__
    place: Any = ctypes.py_object.from_address(id(classes) + tuple.__basicsize__ + ctypes.sizeof(ctypes.py_object))
    if place.value is not Exception:
        raise RuntimeError("this Python keeps the classes of a MemoryError elsewhere; review _memory_errors_uncaught")
    place.value = BaseException
    try:
        yield
    finally:
        place.value = Exception


def _verify(answer: str, truth: str, raise_on_error: bool) -> bool | None:
    from math_verify import verify as math_verify
    from sympy import Equality, I, simplify

    gold, given = _parse(truth, raise_on_error), _parse(answer, raise_on_error)
    if gold is None or given is None:
        return None
    if isinstance(gold, Equality) and isinstance(given, Equality):  # the same curve: one is a multiple of the other
        ratio = simplify((given.lhs - given.rhs) / (gold.lhs - gold.rhs))
        return bool(ratio.is_number and ratio.is_finite and ratio != 0)
    equal = bool(math_verify(gold, given, timeout_seconds=None, raise_on_error=raise_on_error))
    names = {symbol for side in (gold, given) for symbol in getattr(side, "free_symbols", ()) if symbol.name == "i"}
    if not equal and names:  # math-verify takes i for a name
        gold, given = (side.subs(dict.fromkeys(names, I)) if hasattr(side, "subs") else side for side in (gold, given))
        equal = bool(math_verify(gold, given, timeout_seconds=None, raise_on_error=raise_on_error))
    return equal


def _parse(text: str, raise_on_error: bool) -> Any:
    """The expression that the whole text is; None if it does not parse whole. math-verify would go on with a piece of it,
    such as its last number, or with its letters; and it would take the t of -t^2+2t for a unit, and drop it."""
    from math_verify import LatexExtractionConfig, parse

    usual = LatexExtractionConfig()
    target = replace(usual, normalization_config=replace(usual.normalization_config, units=False))
    parsed = parse(f"\\boxed{{{text}}}", (target,), parsing_timeout=None, raise_on_error=raise_on_error)
    return parsed[0] if parsed and not isinstance(parsed[0], str) else None
