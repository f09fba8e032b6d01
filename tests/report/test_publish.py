"""What trackers get at the end of a run."""

from types import SimpleNamespace
from typing import Any

import wandb
from report.made_run import Maker

from recipe.holderpo.report.page.write import page
from recipe.holderpo.report.publish import publish
from recipe.holderpo.report.record import read_run
from recipe.holderpo.report.summary import final_table


def test_a_page_and_a_table(make_run: Maker) -> None:
    folder, logged, texts = make_run("a"), list[Any](), list[Any]()
    writer = SimpleNamespace(add_text=lambda *given: texts.append(given))
    trackers = {"wandb": SimpleNamespace(log=logged.append), "tensorboard": SimpleNamespace(writer=writer)}
    publish(folder, {"console": None}, 3)
    assert logged == texts == []
    publish(folder, trackers, 3)
    (log,) = logged
    assert isinstance(log["report"], wandb.Html) and log["report"].html == page({folder: read_run(folder)})
    assert texts == [("report", f"```\n{final_table(folder)}\n```", 3)]
