"""One update is the same, to float rounding, however a mini-batch is split: through verl's real FSDP2 engine on gloo."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipe.holderpo.embedded.tiny_model import TinyModelConfig, build_model, build_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_model(TinyModelConfig(hidden_size=32, intermediate_size=48, num_layers=1), tokenizer, seed=1).save_pretrained(
        folder
    )
    return folder


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


Results = dict[tuple[str, str], tuple[torch.Tensor, dict[str, float]]]
"""(clip level, way of splitting) -> gradient and metrics."""


@pytest.fixture(scope="module")
def by_ranks(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """With padding on one rank and on two; packed (verl's use_remove_padding, with sdpa) on one."""
    folder, runs = tmp_path_factory.mktemp("gradients"), ("1-padded", "2-padded", "1-packed")
    script = str(Path(__file__).with_name("engine_gradients.py"))
    done = subprocess.run(
        [sys.executable, script, str(model_dir), str(folder), str(_free_port()), *runs],
        cwd=ROOT, env=os.environ | {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {run.replace("-", " "): torch.load(folder / f"{run}.pt") for run in runs}


@pytest.mark.stack
@pytest.mark.parametrize("clip_level", ["sequence", "token"])
def test_gradient_and_metrics_do_not_depend_on_the_split(by_ranks: dict[str, Results], clip_level: str) -> None:
    results = {
        f"{ranks}, {split}": result
        for ranks, of_all in by_ranks.items()
        for (level, split), result in of_all.items()
        if level == clip_level
    }
    assert (
        len(results) == 15
    )  # micro-batches of 1, 3, 8, everything and dynamic; padded on 1 and on 2 ranks (48 and 24 sequences each), packed on 1
    reference_gradient, reference_metrics = results.pop(
        "1 padded, {'use_dynamic_bsz': False, 'micro_batch_size_per_gpu': 48}"
    )
    assert reference_gradient.norm() > 1e-3
    assert 0 < reference_metrics["holder/clip_fraction"] < 1, "the case must have clipped and unclipped sequences"
    for name, (gradient, metrics) in results.items():
        difference = (gradient - reference_gradient).norm() / reference_gradient.norm()
        assert difference < 2e-6, f"{name}: relative difference {difference:.1e}"
        assert metrics.keys() == reference_metrics.keys(), name
        for key in metrics:
            if key.startswith("holder/") or key == "actor/pg_loss":
                assert metrics[key] == pytest.approx(reference_metrics[key], rel=1e-5, abs=1e-7), f"{name}: {key}"
