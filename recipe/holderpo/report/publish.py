"""What a run's trackers get of it at its end, beside the metrics of its steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.holderpo.report.page.write import page
from recipe.holderpo.report.record import read_run
from recipe.holderpo.report.summary import final_table


def publish(run_dir: Path, trackers: Mapping[str, Any], step: int) -> None:
    """Weights & Biases gets the page, which it shows as it is; TensorBoard, which shows no pages, the final table.

    Args:
        trackers: verl's, by name, those that are on.
    """
    if "wandb" in trackers:
        import wandb

        text = page({run_dir: read_run(run_dir)})
        trackers["wandb"].log({"report": wandb.Html(text, inject=False)})
    if "tensorboard" in trackers:
        trackers["tensorboard"].writer.add_text("report", f"```\n{final_table(run_dir)}\n```", step)
