"""A run's folder as a run leaves it, with something planted wherever there is a text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from recipe.holderpo.report.page.data import page_data
from recipe.holderpo.report.record import read_run

PLANTED = "<script>window.planted = 1</script><img src=x onerror='window.planted = 1'>"
Maker = Callable[..., Path]


def maker(parent: Path) -> Maker:
    def make(
        name: str,
        seed: int | None = 1,
        p: float = 0.0,
        last: float = 0.5,
        steps: int = 3,
        more: dict[str, Any] | None = None,
    ) -> Path:
        folder = parent / name
        (folder / "generations").mkdir(parents=True)
        config = {
            "run": name, "run_dir": str(folder), "seed": seed, "holder": {"p_start": p}, "data": {"train_batch_size": 4},
            "actor_rollout_ref": {"rollout": {"n": 8, "seed": seed}}, "trainer": {"x": f"{folder}/x"},
            "ray_kwargs": {"address": name}, "cache_dir": name, "restarts": len(name),
        }  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        records = [
            {
                "step": step,
                "time": 1000.0 + (10 + last) * step,
                "holder/p": p,
                "holder/log_ratio_std": 0.25,
                "perf/total_num_tokens": 7,
                "val-core/sums/acc/mean@4": last * step / (steps - 1),
                "actor/grad_norm": 1 / 3 + step,
                **(more or {}),
            }
            for step in range(steps)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        rows = [
            {"input": PLANTED, "output": f"{PLANTED} 2", "gts": PLANTED, "score": 1.0},
            {"input": "1+2", "output": "4", "gts": "3", "score": 0.0},
        ]
        (folder / "generations" / "2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make


def data_of(*folders: Path) -> Any:
    """What the page shows of these runs."""
    return page_data({folder: read_run(folder) for folder in folders})
