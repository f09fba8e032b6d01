"""An estimate before a run: does a preset fit into the GPUs' memory, and how long is a step?

    python -m recipe.holderpo.plan                                   # every model of the paper on 4 x 80 GB
    python -m recipe.holderpo.plan --model qwen2.5_math_7b --gpus 4 8 32 128 512
    python -m recipe.holderpo.plan --folder path/to/model --gpu-gb 141 --bandwidth 4.8 --tflops 989

Memory is counted, not measured: parameters, gradients and AdamW in float32 sharded over all GPUs, activations under gradient
checkpointing, logits, and, while sampling, the bfloat16 copy and the KV cache in vLLM. A test compares its formulas with
a real small model. Times are a roofline with the efficiencies below: right to a factor of two at best.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from recipe.holderpo.config.errors import ConfigError, print_error
from recipe.holderpo.config.values import integer, number, wrong_value
from recipe.holderpo.report.text_table import text_table

GB = 1e9
# Shares of the peak that training (matrix products) and decoding (memory) reach on large models, from common experience.
TRAIN_EFFICIENCY, DECODE_EFFICIENCY = 0.35, 0.6
# What CUDA, NCCL and the allocator's fragmentation take of each GPU.
OVERHEAD_GB = 4.0
# A checkpoint's bytes per parameter: float32 weights and AdamW's two moments. keep_checkpoints=2 and one in the making.
CHECKPOINT_BYTES, CHECKPOINTS_AT_ONCE = 12, 3
# GB/s of a shared file system that all ranks write to together, and of one rank that hashes what it wrote.
DISK_GB_S, HASH_GB_S = 1.0, 0.75


@dataclass(frozen=True)
class Architecture:
    """The numbers of a decoder-only transformer (Qwen2, Qwen3, Llama) that memory depends on."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    qkv_bias: bool = True
    qk_norm: bool = False

    @property
    def parameters(self) -> int:
        """Exact number of parameters."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * q + 2 * self.hidden * kv + self.qkv_bias * (q + 2 * kv)
        layer = attention + self.qk_norm * 2 * self.head_dim + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.layers * layer + embeddings + self.hidden

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache per token, in bfloat16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2

    def saved_bytes_per_token(self, element: int = 2) -> int:
        """Bytes per token that gradient checkpointing keeps between forward and backward: each layer's input, and
        the last norm's input and output."""
        return (self.layers + 2) * self.hidden * element

    def layer_bytes_per_token(self, element: int = 2) -> int:
        """Bytes per token that one layer keeps while it is recomputed: what its matrix products, norms, gate and
        rotations save for the backward pass (attention itself by flash-attn or sdpa: no T x T matrix)."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return element * (6 * self.hidden + 2 * q + 2 * kv + 4 * self.intermediate)

    def logits_bytes_per_token(self) -> int:
        """Bytes per token of the output layer: bfloat16 logits, their float32 copy and its gradient."""
        return self.vocabulary * (2 + 4 + 4)


MODELS = {
    "qwen2.5_1.5b_instruct": Architecture(1536, 28, 12, 2, 128, 8960, 151936, tied=True),
    "qwen2.5_math_1.5b": Architecture(1536, 28, 12, 2, 128, 8960, 151936, tied=True),
    "qwen2.5_math_7b": Architecture(3584, 28, 28, 4, 128, 18944, 152064),
    "r1_distill_qwen_7b": Architecture(3584, 28, 28, 4, 128, 18944, 152064),
    "qwen3_4b_base": Architecture(2560, 36, 32, 8, 128, 9728, 151936, tied=True, qkv_bias=False, qk_norm=True),
    "qwen3_8b_base": Architecture(4096, 36, 32, 8, 128, 12288, 151936, qkv_bias=False, qk_norm=True),
}


SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
}
"""Fields of `Architecture` -> keys of a Hugging Face config.json."""


def read_architecture(folder: Path) -> Architecture:
    """The architecture in a Hugging Face folder's config.json.

    Raises:
        ConfigError: there is none, it is damaged, or the model's family is not known here.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
        family = config.get("model_type")
    except OSError as error:
        raise ConfigError(
            f"--folder is {str(folder)!r}, whose config.json cannot be read ({error.strerror}); allowed is a Hugging Face "
            "folder on this machine: nothing is downloaded"
        ) from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{file} is damaged: {error}; allowed is a Hugging Face model's") from None
    if family not in ("qwen2", "qwen3", "llama"):
        raise ConfigError(f"{folder} is a {family!r} model; allowed are qwen2, qwen3 and llama")
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    values = {"num_key_value_heads": heads}  # what older configs leave out
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        values["head_dim"] = hidden // heads
    values |= {key: value for key, value in config.items() if value is not None}
    kinds = dict.fromkeys(SIZES.values(), integer(1, 10**7)) | {"tie_word_embeddings": bool | None}
    lines = [wrong_value(f"{key} of {file}", values.get(key), kind) for key, kind in kinds.items()]
    if any(lines):
        raise ConfigError(*filter(None, lines))
    return Architecture(
        **{field: values[key] for field, key in SIZES.items()},
        tied=values.get("tie_word_embeddings", False),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
    )


# What the presets of conf/model and conf/hardware/gpu.yaml set (a test compares them): vLLM's share of each GPU.
UTILIZATION = {"qwen3_8b_base": 0.55}
DEFAULT_UTILIZATION = 0.6
# Responses of a mini-batch: every rank needs at least one.
MINI_BATCH = 128


@dataclass(frozen=True)
class Workload:
    """A step of the paper: 1,024 responses."""

    responses: int = 1024
    prompt_tokens: int = 150
    """Typical, not the limit."""
    response_tokens: int = 1000
    """Typical, not the limit."""
    longest: int = 3000
    tokens_per_gpu: int = 16384
    """ppo_max_token_len_per_gpu: of one packed micro-batch."""
    gpu_memory_utilization: float = DEFAULT_UTILIZATION
    """vLLM's share of each GPU's memory while it samples."""


@dataclass(frozen=True)
class Gpu:
    memory_gb: float = 80.0
    bandwidth_tb_s: float = 3.35
    tflops: float = 989.0
    """Dense bfloat16. The defaults are an H100's (SXM)."""


@dataclass(frozen=True)
class Estimate:
    """Gigabytes per GPU, and seconds."""

    state: float
    activations: float
    logits: float
    training: float
    sampling: float
    kv_tokens: float
    """Tokens that vLLM's KV cache holds on one GPU."""
    generate_s: float
    train_s: float
    tokens_per_step: int

    @property
    def step_s(self) -> float:
        return self.generate_s + self.train_s


def estimate(model: Architecture, gpus: int, work: Workload, gpu: Gpu, tensor_parallel: int = 1) -> Estimate:
    parameters = model.parameters
    # float32 weights, gradients and AdamW's two moments, each sharded over all GPUs (FSDP2); the bfloat16 weights of the two
    # layers that are gathered at a time.
    layer = parameters / model.layers
    state = (16 * parameters / gpus + 2 * 2 * layer) / GB
    activations = work.tokens_per_gpu * (model.saved_bytes_per_token() + model.layer_bytes_per_token()) / GB
    logits = work.tokens_per_gpu * model.logits_bytes_per_token() / GB
    weights = 2 * parameters / tensor_parallel / GB
    # vLLM's share is of the GPU's total memory; the trainer's float32 shards and moments stay beside it, gradients do not.
    share = work.gpu_memory_utilization * gpu.memory_gb
    kv_tokens = max(0.0, share - weights - OVERHEAD_GB / 2) * GB * tensor_parallel / model.kv_bytes_per_token
    tokens = work.responses * (work.prompt_tokens + work.response_tokens)
    # 6 FLOPs per parameter and token for forward and backward, 2 for checkpointing's second forward, 2 for the old log-probs.
    train_s = 10 * parameters * tokens / (gpus * gpu.tflops * 1e12 * TRAIN_EFFICIENCY)
    # The last response ends after `longest` decoding steps, each of which reads the weights and the running responses' KV.
    replicas = max(1, gpus // tensor_parallel)
    running = work.responses / replicas * work.response_tokens / work.longest
    kv_read = running * (work.prompt_tokens + work.response_tokens / 2) * model.kv_bytes_per_token
    read = (2 * parameters + kv_read) / tensor_parallel
    generate_s = work.longest * read / (gpu.bandwidth_tb_s * 1e12 * DECODE_EFFICIENCY)
    return Estimate(
        state=state,
        activations=activations,
        logits=logits,
        training=state + activations + logits + OVERHEAD_GB,
        sampling=share + 12 * parameters / gpus / GB + OVERHEAD_GB,
        kv_tokens=kv_tokens,
        generate_s=generate_s,
        train_s=train_s,
        tokens_per_step=tokens,
    )


def checkpoint_gb(model: Architecture) -> float:
    return CHECKPOINT_BYTES * model.parameters / GB


def save_seconds(model: Architecture, gpus: int) -> float:
    """Of a checkpoint: written by all ranks to one file system, then hashed by each rank."""
    return checkpoint_gb(model) * (1 / DISK_GB_S + 1 / gpus / HASH_GB_S)


def stop_grace_seconds(step_s: float, save_s: float) -> int:
    """What `stop_grace_s` should be at least: a step and a save, twice, since the estimate is right to a factor of two; in
    whole minutes."""
    return 60 * math.ceil(2 * (step_s + save_s) / 60)


def checkpoint_rows(models: dict[str, Architecture], counts: list[int], work: Workload, gpu: Gpu) -> list[list[str]]:
    table = [["model", "GPUs", "checkpoint GB", "disk GB", "save s", "stop_grace_s", "notice s"]]
    for name, model in models.items():
        for gpus in counts:
            size, save_s = checkpoint_gb(model), save_seconds(model, gpus)
            grace = stop_grace_seconds(estimate(model, gpus, work, gpu).step_s, save_s)
            figures = (size, CHECKPOINTS_AT_ONCE * size, save_s, grace, grace + 60)
            table.append([name, str(gpus), *(f"{figure:.0f}" for figure in figures)])
    return table


def rows(models: dict[str, Architecture], counts: list[int], work: Workload, gpu: Gpu) -> list[list[str]]:
    head = [
        "model",
        "parameters",
        "GPUs",
        "state",
        "activations",
        "logits",
        "train GB",
        "sample GB",
        "fits",
        "KV tokens",
    ]
    table = [[*head, "generate s", "train s", "step s", "tokens/s/GPU"]]
    for name, model in models.items():
        for gpus in counts:
            share = UTILIZATION.get(name, DEFAULT_UTILIZATION)
            e = estimate(model, gpus, replace(work, gpu_memory_utilization=share), gpu)
            fits = max(e.training, e.sampling) <= gpu.memory_gb
            memory = [f"{x:.1f}" for x in (e.state, e.activations, e.logits, e.training, e.sampling)]
            times = [f"{x:.0f}" for x in (e.generate_s, e.train_s, e.step_s, e.tokens_per_step / e.step_s / gpus)]
            fit = "yes" if fits else "offload" if e.training - e.state <= gpu.memory_gb else "no"
            if MINI_BATCH % gpus:
                fit += f" (mini-batch of {gpus} responses)"
            table.append(
                [name, f"{model.parameters / 1e9:.2f} G", str(gpus), *memory, fit, f"{e.kv_tokens:.0f}", *times]
            )
    return table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.holderpo.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS), help="presets of conf/model")
    parser.add_argument("--folder", type=Path, help="a Hugging Face folder instead of a preset")
    parser.add_argument("--gpus", nargs="+", type=int, default=[4], help="numbers of GPUs (%(default)s)")
    parser.add_argument("--gpu-gb", type=float, default=Gpu.memory_gb, help="memory of one (%(default)s)")
    parser.add_argument(
        "--bandwidth", type=float, default=Gpu.bandwidth_tb_s, help="its memory bandwidth, TB/s (%(default)s)"
    )
    parser.add_argument("--tflops", type=float, default=Gpu.tflops, help="its dense bfloat16 peak (%(default)s)")
    parser.add_argument(
        "--response-tokens", type=int, default=Workload.response_tokens, help="typical length (%(default)s)"
    )
    options = parser.parse_args(argv)
    bounds = {  # 100 times what there is: a slip of the unit is more likely
        "--gpu-gb": (options.gpu_gb, number(1, 10**5)),
        "--bandwidth": (options.bandwidth, number(0.01, 1000)),
        "--tflops": (options.tflops, number(0.1, 10**6)),
        "--response-tokens": (options.response_tokens, integer(1, Workload.longest)),
    }
    lines = [wrong_value("--gpus", gpus, integer(1, 10**6)) for gpus in options.gpus]
    lines += [wrong_value(name, value, kind) for name, (value, kind) in bounds.items()]
    models = {name: MODELS[name] for name in options.model}
    try:
        if options.folder is not None:
            models = {options.folder.resolve().name: read_architecture(options.folder)}
    except ConfigError as error:
        lines += error.lines
    if any(lines):
        print_error(ConfigError(*filter(None, lines)))
        sys.exit(2)
    work = Workload(response_tokens=options.response_tokens)
    gpu = Gpu(options.gpu_gb, options.bandwidth, options.tflops)
    table = rows(models, options.gpus, work, gpu)
    print(text_table(table))
    print(
        "Checkpoints, and how long before the end SIGTERM has to come (Slurm's --signal=TERM@..., Kubernetes' grace period):"
    )
    print(text_table(checkpoint_rows(models, options.gpus, work, gpu)))
    print("An estimate: memory in GB per GPU is counted, times are a roofline (see --help). Not measured on GPUs.")


if __name__ == "__main__":
    main()
