"""The layout that CONTRIBUTING.md describes: few modules at the top, and no import that runs up."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recipe/holderpo"

# From the ground up. A module may import from its own floor and from those below; the longest name that fits counts.
FLOORS = (
    ("holderpo_core",),
    (
        "recipe.holderpo.config.errors",
        "recipe.holderpo.config.free_keys",
        "recipe.holderpo.config.values",
        "recipe.holderpo.atomic",
        "recipe.holderpo.seeds",
        "recipe.holderpo.startup",
        "recipe.holderpo.training.cpu_vllm",
    ),
    ("recipe.holderpo.rewards", "recipe.holderpo.report", "recipe.holderpo.tasks.registry"),
    ("recipe.holderpo.policy_loss", "recipe.holderpo.data", "recipe.holderpo.embedded"),
    ("recipe.holderpo.config",),
    ("recipe.holderpo.fault_tolerance",),
    ("recipe.holderpo.training", "recipe.holderpo.evaluation", "recipe.holderpo.plan"),
    ("recipe.holderpo.tasks",),
    ("recipe.holderpo.main", "recipe.holderpo.study", "recipe.holderpo.rehearsal", "recipe.holderpo.gpu_check"),
    ("recipe.holderpo.launch", "recipe.holderpo.plugin", "recipe.holderpo.evaluation.__main__"),
    ("recipe.holderpo.doctor",),
)


def floor(module: str) -> int:
    fitting = [(len(name), number) for number, names in enumerate(FLOORS) for name in names if _is_in(module, name)]
    assert fitting, f"{module} is on no floor"
    return max(fitting)[1]


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def modules() -> Iterator[tuple[str, Path]]:
    for folder in (ROOT / "holderpo_core", PACKAGE):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imports(file: Path, known: set[str]) -> Iterator[str]:
    """Modules of ours that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (
                name if name in known else node.module for name in names if node.module in known or name in known
            )


def test_no_import_runs_up() -> None:
    found = dict(modules())
    up = [
        f"{module} -> {imported}"
        for module, file in found.items()
        if module != "recipe.holderpo"
        for imported in imports(file, set(found) - {"recipe.holderpo"})
        if floor(imported) > floor(module)
    ]
    assert up == []


def test_the_core_imports_neither_verl_nor_ray() -> None:
    for module, file in modules():
        if module.startswith("holderpo_core"):
            roots = {name.split(".")[0] for name in _all_imports(file)}
            assert roots <= {"collections", "dataclasses", "holderpo_core", "math", "torch", "typing"}, module


def _all_imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield node.module


def test_the_top_has_few_modules_and_recipe_is_a_namespace() -> None:
    top = sorted(file.name for file in PACKAGE.glob("*.py") if file.name != "__init__.py")
    assert len(top) <= 8, top
    assert not (PACKAGE.parent / "__init__.py").exists()


def test_no_file_is_too_long_to_read() -> None:
    long = {name: lines for name, file in modules() if (lines := len(file.read_text().splitlines())) > 400}
    assert long == {}
