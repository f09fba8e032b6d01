"""What the comparison would run, what it skips, and its table and picture; the runs themselves are in tests/stack."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from omegaconf import OmegaConf

from recipe.holderpo.config.compose import compose_config
from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.config.settings import rule_of_p
from recipe.holderpo.launch.compare import ARMS, USUAL, check_finished, is_finished, read_arguments, train_missing
from recipe.holderpo.report.comparison import comparison_figure, comparison_table


def test_arguments_are_told_from_overrides() -> None:
    assert read_arguments([]) == ("compare", ["p0", "p2", "2to-2", "signed", "grpo"], [])
    given = ["seed=2", "name=narrow", "arms=signed,p0", "trainer.total_training_steps=3"]
    assert read_arguments(given) == ("narrow", ["signed", "p0"], ["seed=2", "trainer.total_training_steps=3"])


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("arms=p0,p3", "arms has 'p3'; allowed are .*gspo, .*p0, p2, 2to-2, signed"),
        ("arms=", "arms has ''; allowed are "),
        ("arms", "arms has ''; allowed are "),
        ("arms=p0,p2,p0", "arms has 'p0' twice"),
        ("name=", "name is ''; allowed is the name of a folder"),
        ("name=a/b", "name is 'a/b'; allowed"),
        ("name=..", "name is '..'; allowed"),
        ("name=é", "name is 'é'; allowed"),
        ("name=a,b", "name is 'a,b'; allowed"),
        ("name=" + "x" * 101, "name is 'xxx"),
        ("++run=x", "this command sets run for each arm"),
        ("holder.p_start=1", "the arm p0 sets holder.p_start itself"),
        ("run=x", "this command sets run for each arm"),
        ("algo=gspo", "this command sets algo for each arm"),
    ],
)
def test_a_wrong_argument_is_one_line(argument: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_arguments([argument])


def test_all_that_is_wrong_with_the_arguments_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_arguments(["name=a/b", "arms=p3,p4", "run=x"])
    assert [line.split()[0] for line in caught.value.lines] == ["run=x:", "name", "arms", "arms"]
    assert read_arguments(["arms=2to-2", "holder.p_start=1"])[2] == ["holder.p_start=1"]


def test_the_arms_have_the_orders_that_their_names_say() -> None:
    assert ARMS["dapo"] == ["algo=dapo"]
    configs = {arm: compose_config([*overrides, "trainer.total_training_steps=5"]) for arm, overrides in USUAL.items()}
    assert configs.pop("grpo").actor_rollout_ref.actor.policy_loss.loss_mode == "vanilla"
    orders = {}
    for arm, config in configs.items():
        rule = rule_of_p(config)
        assert rule is not None
        orders[arm] = [rule.next_p(step) for step in (1, 5)]
    assert (orders["p0"], orders["p2"], orders["2to-2"]) == ([0.0, 0.0], [2.0, 2.0], [2.0, -2.0])
    assert {(order.positive, order.negative) for order in orders["signed"]} == {(-2.0, 2.0)}  # type: ignore[union-attr]


def test_a_run_is_finished_with_its_last_step(tmp_path: Path) -> None:
    config = OmegaConf.create({"run_dir": str(tmp_path), "trainer": {"total_training_steps": 2}})
    assert not is_finished(config)
    for step, finished in ((1, False), (2, True)):
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "time": 0.0}) + "\n")
        assert is_finished(config) is finished


def test_what_is_finished_must_be_what_is_asked_for(tmp_path: Path) -> None:
    """Else the table would show the values of another comparison of that name."""
    small = ["model=tiny", f"run_dir={tmp_path}/r", "trainer.total_training_steps=2"]
    config, other = (compose_config([*small, f"seed={seed}"]) for seed in (1, 2))
    check_finished({"p0": other})  # nothing is there yet
    (tmp_path / "r").mkdir()
    OmegaConf.save(config, tmp_path / "r" / "config.yaml")
    (tmp_path / "r" / "metrics.jsonl").write_text('{"step": 1, "time": 0.0}\n')
    check_finished({"p0": other})  # it is not finished: the run itself looks before it resumes
    (tmp_path / "r" / "metrics.jsonl").write_text('{"step": 2, "time": 0.0}\n')
    check_finished({"p0": config})
    with pytest.raises(ConfigError, match=r"seed is 2; allowed is the value that run .* began with, 1"):
        check_finished({"p0": other})
    shorter = compose_config([*small, "seed=1", "trainer.total_training_steps=1"])
    with pytest.raises(ConfigError, match="total_training_steps is 1; allowed is 2"):
        check_finished({"p0": shorter})
    for damaged in (b"\xff", b"a: [", b"- 1\n", b"", b"a: ${"):
        (tmp_path / "r" / "config.yaml").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"r/config\.yaml cannot be read: "):
            check_finished({"p0": config})


def test_a_damaged_record_is_named_and_a_lost_picture_drawn_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = OmegaConf.create({"run_dir": f"{tmp_path}/r", "trainer": {"total_training_steps": 2}})
    (tmp_path / "r").mkdir()
    record = tmp_path / "r" / "metrics.jsonl"
    record.write_text('{"step": 2, "time": 0.0, "actor/entropy": 1.0}\n')  # without validation
    assert train_missing(tmp_path / "name", {"p0": []}, {"p0": config}) == 0
    assert (tmp_path / "name" / "compare.png").stat().st_size > 10_000
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "p0"
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"name is .*file/name', which cannot be written"):
        train_missing(tmp_path / "file" / "name", {"p0": []}, {"p0": config})
    record.write_text('{"step": 2, "x": null}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 1: x is None"):
        is_finished(config)


RUNS = {
    "signed": [
        {"step": 0.0, "val-core/number/clock/acc/mean@1": 0.2},
        {"step": 1.0, "holder/p": 0.1, "holder/p_positive": -2.0, "holder/p_negative": 2.0, "actor/grad_norm": 0.5}
        | {"holder/last_log_ratio_std": 0.25, "holder/sequence_clip_fraction": 0.125, "timing_s/step": 4.0},
        {"step": 2.0, "holder/p": 0.1, "holder/p_positive": -2.0, "holder/p_negative": 2.0, "actor/grad_norm": 1.5}
        | {"holder/last_log_ratio_std": 0.15, "holder/sequence_clip_fraction": 0.0, "timing_s/step": 5.0}
        | {"val-core/number/clock/acc/mean@1": 0.7},
    ],
    "grpo": [{"step": 1.0, "actor/grad_norm": 2.0, "timing_s/step": 3.0}],
}


def test_the_table_has_a_row_for_each_run() -> None:
    head, signed, grpo = comparison_table(RUNS).splitlines()
    assert signed.split() == ["signed", "20.0", "%", "70.0", "%", "70.0", "%", "0.40", "6.2%", "1.00", "4.5"]
    assert grpo.split() == ["grpo", "-", "-", "-", "-", "-", "2.00", "3.0"]
    assert head.split()[:3] == ["first", "best", "last"]


def test_the_picture_has_a_line_for_each_value_that_a_run_has() -> None:
    panels = {axes.get_title(): axes for axes in comparison_figure({name: [run] for name, run in RUNS.items()}).axes}
    assert _points(panels["Held-out accuracy, sampled"]) == {"signed": [(0, 0.2), (2, 0.7)]}
    assert _points(panels["Gradient norm before clipping"]) == {"signed": [(1, 0.5), (2, 1.5)], "grpo": [(1, 2.0)]}
    assert _points(panels["|p| x spread of log-ratios, last update"]) == {"signed": [(1, 0.5), (2, 0.3)]}


def test_of_a_groups_runs_the_mean_is_drawn_with_its_interval() -> None:
    runs = [
        [{"step": float(step), "actor/entropy": value + step} for step in range(n)]
        for value, n in ((1, 3), (2, 3), (4, 2))
    ]
    panel = next(axes for axes in comparison_figure({"p0": runs, "p1": runs[:2]}).axes if "entropy" in axes.get_title())
    thick = {name: points for name, points in _points(panel).items() if not name.startswith("_")}
    assert thick["p0 (mean of 3)"] == [(0, pytest.approx(7 / 3)), (1, pytest.approx(10 / 3))], "step 2 is not in all"
    assert thick["p1 (mean of 2)"] == [(0, 1.5), (1, 2.5), (2, 3.5)] and len(panel.lines) == 2 + 3 + 2
    (band,) = panel.collections  # two runs have none
    half = 4.303 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    low, high = band.get_datalim(panel.transData).y0, band.get_datalim(panel.transData).y1
    assert (low, high) == pytest.approx((7 / 3 - half, 10 / 3 + half), abs=1e-3)


def _points(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): [(x, y) for x, y in np.column_stack((line.get_xdata(), line.get_ydata())).tolist()]
        for line in axes.lines
    }
