"""Run verl 0.9.1 on a machine without an accelerator: `VERL_PLATFORM=cpu`.

verl has a platform interface but ships only accelerators. This module adds the platform and patches, one by one, the places
where verl assumes an accelerator (vLLM's: cpu_vllm.py). It is inert unless `VERL_PLATFORM=cpu` is set before verl is
imported (the plugin looks; `hardware=cpu` sets it). Each patch says what fails without it and what would make it unnecessary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import wrapt
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

from recipe.holderpo.training import cpu_vllm


class CpuDevice(ModuleType):
    """`torch.cpu`, plus the memory counters that verl reads of every device module (all 0: nothing is counted)."""

    def __init__(self) -> None:
        super().__init__("torch.cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def get_device_name(self, *_: Any) -> str:
        return "CPU"  # as verl's table of device speeds spells it

    def memory_allocated(self, *_: Any) -> int:
        return 0

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        return 0, 0

    def empty_cache(self) -> None:
        pass

    reset_peak_memory_stats = ipc_collect = empty_cache

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None:
        torch.set_rng_state(state)


class PlatformCPU(PlatformBase):
    """A host without an accelerator. Ray gets `trainer.n_gpus_per_node` "GPUs": each stands for one worker process."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = CpuDevice()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        # Only ever chosen by name: auto-detection must not find a CPU before it has looked for accelerators.
        return False

    def current_device(self) -> torch.device:  # type: ignore[override]
        # verl passes this on as a device; an index would mean "cuda:0" to torch.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        # verl's resource check knows only "GPU" and "NPU"; `ray_kwargs.ray_init.num_gpus` declares that many.
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        # There is no device memory to share; verl then sends weights through POSIX shared memory.
        return False

    def cudart(self) -> None:
        return None


def _use_plain_gloo(distributed: Any) -> None:
    """verl asks torch for the backend "cpu:gloo,cpu:gloo", and torch refuses a device that is named twice.

    Unnecessary once verl's `initialize_global_process_group_ray` leaves out a second entry for the CPU.
    """
    original = distributed.initialize_global_process_group_ray

    def initialize_global_process_group_ray(timeout_second: int | None = None, backend: str | None = None) -> None:
        original(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    distributed.initialize_global_process_group_ray = initialize_global_process_group_ray


def _register_fsdp_engines(fsdp: Any) -> None:
    """verl registers its FSDP engines for "cuda" and "npu" only; they run on gloo as they are (strategy fsdp2)."""
    from verl.workers.engine.base import EngineRegistry

    for model_type, engine in (
        ("language_model", fsdp.FSDPEngineWithLMHead),
        ("value_model", fsdp.FSDPEngineWithValueHead),
    ):
        EngineRegistry.register(model_type=model_type, backend=["fsdp2"], device="cpu")(engine)


def _offload_nothing(fsdp: Any) -> None:
    """verl keeps a reference model's shards in pinned host memory, and pinning needs an accelerator; here they are in the
    only memory there is.

    Unnecessary once verl pins only where there is an accelerator.
    """
    from torch.distributed.fsdp import OffloadPolicy

    fsdp.CPUOffloadPolicy = lambda pin_memory: OffloadPolicy()


def _copy_received_weights(transfer: Any) -> None:
    """On a CPU `tensor.to(device)` is a view of the shared segment, which then cannot be closed ("cannot close exported
    pointers exist"), and which the sender overwrites with the next bucket: hand on copies.

    Unnecessary once verl's BucketedWeightReceiver clones tensors that it received through shared memory.
    """
    original = transfer.BucketedWeightReceiver.receive_weights

    def receive_weights(self: Any, on_bucket_received: Any) -> None:
        def on_copied_bucket(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            on_bucket_received([(name, tensor.clone()) for name, tensor in weights], is_last)
            weights.clear()  # the receiver's own list still holds views of the segment

        original(self, on_copied_bucket)

    transfer.BucketedWeightReceiver.receive_weights = receive_weights


def install() -> None:
    """Register the platform and arrange for every patch, each at the moment its target is imported."""
    PlatformRegistry.register("cpu")(PlatformCPU)
    cpu_vllm.install()
    wrapt.when_imported("verl.utils.distributed")(_use_plain_gloo)
    wrapt.when_imported("verl.workers.engine.fsdp.transformer_impl")(_register_fsdp_engines)
    wrapt.when_imported("verl.workers.engine.fsdp.transformer_impl")(_offload_nothing)
    wrapt.when_imported("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer")(_copy_received_weights)
