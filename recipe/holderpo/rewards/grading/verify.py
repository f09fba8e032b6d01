"""What runs in a grading process: math-verify behind a guard, without time limits of its own (the pool's kill is the limit).

The text comes from a model. math-verify's symbolic back end turns text into sympy expressions, and one road from there
ends in `exec`: sympy's evalf compiles symbol names by way of lambdify. `protect` closes that road. Because it is one road
only, it also takes from the process what an attacker could use: files, sockets, children, memory.
"""

import ctypes
import importlib
import pkgutil
import re
import resource
import signal

from recipe.holderpo.rewards.grading import seccomp

PR_SET_PDEATHSIG = 1
# Modules that verification has no use for.
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


def protect(memory_mb: int) -> None:
    """Make this process, warmed up before, fit to read untrusted text. To be called once, where nothing else is done.

    Afterwards it has the guard on and at most `memory_mb` of address space; it cannot open a file or a socket, start or
    signal a process or read another's memory (seccomp); it dies with its parent. Raises OSError without seccomp."""
    install_guard()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seccomp.deny()


def warm_up() -> None:
    """Import all that verification may import later: a protected process cannot open files."""
    for package in ("sympy", "mpmath"):
        path = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(path, f"{package}.", onerror=lambda name: None):
            if not _NOT_NEEDED.search(module.name):
                try:
                    importlib.import_module(module.name)
                except Exception:  # an optional dependency is missing or too new: verification could not use it either
                    continue
    for gold, answer in (
        ("\\frac{1}{2}", "0.5"),
        ("\\sqrt{2}", "2^{1/2}"),
        ("(1,2]", "[1,2]"),
        ("x=3", "y"),
        ("\\{1,2\\}", "1,2"),
    ):
        verify(answer, gold)


def limit_cpu(seconds: float) -> None:
    """Kill this process (SIGXCPU) when it has used so many more seconds of CPU time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def verify(answer: str, truth: str) -> bool | None:
    """Whether math-verify finds the two equal; None if it cannot read the answer (or the truth).

    Raises what math-verify or sympy raised where they failed and did not find them equal in another way either."""
    try:
        return _verify(answer, truth, raise_on_error=True)
    except Exception:
        # One way of reading or comparing failed. With errors swallowed math-verify tries the others; equal is equal then,
        # but "not equal" would hide the failure.
        if _verify(answer, truth, raise_on_error=False):
            return True
        raise


def _verify(answer: str, truth: str, raise_on_error: bool) -> bool | None:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
    from math_verify import verify as math_verify

    targets = (LatexExtractionConfig(), ExprExtractionConfig())
    gold, given = (
        parse(f"\\boxed{{{text}}}", targets, parsing_timeout=None, raise_on_error=raise_on_error)
        for text in (truth, answer)
    )
    if not gold or not given:
        return None
    return bool(math_verify(gold, given, timeout_seconds=None, raise_on_error=raise_on_error))
