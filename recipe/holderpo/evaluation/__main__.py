"""Evaluate a model on mathematical benchmarks: `python -m recipe.holderpo.evaluation model=... run=...`.

conf/evaluation/eval.yaml has every key. Writes out_dir/run/: config.yaml, generations/NAME.jsonl (every answer with its
text, tokens and score), and the table as table.txt, table.md, table.csv and results.json. Several runs side by side:
`python -m recipe.holderpo.evaluation.compare DIR ...`.
"""

import atexit
import hashlib
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.progress import Progress

from recipe.holderpo import atomic
from recipe.holderpo.config.compose import refusals_of_hydra
from recipe.holderpo.config.errors import ConfigError, print_error
from recipe.holderpo.config.help import wants_help
from recipe.holderpo.data.templates import TEMPLATES
from recipe.holderpo.evaluation import table
from recipe.holderpo.evaluation.compare import read_results
from recipe.holderpo.evaluation.generate import Problem, Sampler, Sampling, Store, read_answers, read_problems
from recipe.holderpo.evaluation.metrics import Estimate, mean_over_problems, pass_at_k
from recipe.holderpo.evaluation.model import check_model, resolve_model, trained_template
from recipe.holderpo.evaluation.settings import check
from recipe.holderpo.fault_tolerance.run_files import check_can_write, read_config
from recipe.holderpo.fault_tolerance.signals import ExitStatus
from recipe.holderpo.rewards.math import FAULTS, compute_score

# What may differ between the starts of one evaluation.
FREE = ("chunk", "engine", "env", "grading", "out_dir", "k", "rehearse")


def complete(config: DictConfig) -> None:
    """Fill in what follows from the model: the run's name, and the template that a checkpoint was trained with."""
    if OmegaConf.is_missing(config, "model") or not isinstance(config.model, str) or not config.model:
        given = "missing" if OmegaConf.is_missing(config, "model") else repr(config.model)
        raise ConfigError(f"model is {given}; allowed is a hub id or a folder")
    if isinstance(config.run, int | float):
        config.run = str(config.run)  # run=5 is a name
    if config.run is None:
        config.run = re.sub(r"[^\w.-]+", "-", str(config.model).strip("/."))
    if config.template is None:
        config.template = trained_template(config.model) or "qwen_math"
        print(f"template={config.template}", flush=True)


def open_run(config: DictConfig, model: str, files: dict[str, Path]) -> Path:
    """The run's folder, with its config, the model that was found and the hashes of the problems' files.

    Raises:
        ConfigError: it holds answers made with others.
    """
    folder = Path(config.out_dir) / config.run
    saved_file = folder / "config.yaml"
    hashes = {f"sha256_{name}": hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    now = {str(key): value for key, value in config.items() if key not in (*FREE, "benchmarks", "model")}
    now |= {"found_model": model} | hashes
    saved = dict(read_config(saved_file)) if saved_file.exists() else {}
    for key, value in now.items():
        if key in saved and value != saved[key]:
            raise ConfigError(
                f"{key} is {value!r}; allowed is {saved[key]!r}, with which {folder} began; or give it another name: run=..."
            )
    folder.mkdir(parents=True, exist_ok=True)
    began_with = OmegaConf.create({**saved, **OmegaConf.to_container(config, resolve=True), **now})  # type: ignore[dict-item]
    atomic.write_text(saved_file, OmegaConf.to_yaml(began_with))
    return folder


def graded(problem: Problem, sample: int, completion: Any, limits: dict[str, Any]) -> dict[str, Any]:
    truncated = completion.finish_reason == "length"
    score = compute_score(problem.benchmark, completion.text, problem.ground_truth, {"truncated": truncated}, **limits)
    return {
        "index": problem.index,
        "sample": sample,
        **score,
        "tokens": len(completion.token_ids),
        "ground_truth": problem.ground_truth,
        "problem": problem.text,
        "answer": completion.text,
    }


def evaluate(config: DictConfig) -> dict[str, dict[str, Estimate]]:
    """Generate, grade and save what is missing; returns label -> benchmark -> accuracy."""
    files = {name: Path(config.data_dir) / f"eval_{name}.parquet" for name in config.benchmarks}
    problems = {name: read_problems(path)[: config.limit] for name, path in files.items()}
    folder = Path(config.out_dir) / config.run
    check_can_write("out_dir/run", folder)
    with_earlier(folder, {})  # damaged results are found before new ones are made
    model = resolve_model(config.model, config.trust_checkpoint)
    every = [problem for rows in problems.values() for problem in rows]
    check_model(model, _engine(config), every, TEMPLATES[config.template])
    open_run(config, model, files)
    stores = {name: Store(folder / "generations" / f"{name}.jsonl", config.n) for name in problems}
    missing = {name: [p for p in problems[name] if p.index not in stores[name].done()] for name in problems}
    if any(missing.values()):
        sampler = Sampler(model, TEMPLATES[config.template], _engine(config))
        sampling = Sampling(config.n, config.temperature, config.top_p, config.max_tokens, config.seed)
        limits = dict(config.grading)
        with Progress(speed_estimate_period=math.inf) as progress:  # the mean over all chunks; one may take minutes
            for name, rest in missing.items():
                task = progress.add_task(name, total=len(problems[name]), completed=len(problems[name]) - len(rest))
                for start in range(0, len(rest), config.chunk):
                    chunk = rest[start : start + config.chunk]
                    answers = list(sampler.answers(chunk, sampling))
                    stores[name].add([graded(p, sample, completion, limits) for p, sample, completion in answers])
                    progress.advance(task, len(chunk))
    label = config.run
    results = {
        label: {name: mean_over_problems([sum(r) / len(r) for r in store.right()]) for name, store in stores.items()}
    }
    for k in config.k:
        results[f"{label} pass@{k}"] = {
            name: mean_over_problems([pass_at_k(len(r), round(sum(r)), k) for r in store.right()])
            for name, store in stores.items()
        }
    return results


def _engine(config: DictConfig) -> dict[str, Any]:
    engine = OmegaConf.to_container(config.engine, resolve=True)
    assert isinstance(engine, dict)
    return {str(key): value for key, value in engine.items() if value is not None}


def write(folder: Path, results: dict[str, dict[str, Estimate]]) -> None:
    for name, text in (
        ("table.txt", table.as_text(results) + "\n"),
        ("table.md", table.as_markdown(results) + "\n"),
        ("table.csv", table.as_csv(results)),
        ("results.json", table.as_json(results)),
    ):
        atomic.write_text(folder / name, text)


def faults(folder: Path) -> str:
    """One line: how many responses were truncated, had no answer, or could not be graded."""
    rows = [row for file in sorted((folder / "generations").glob("*.jsonl")) for row in read_answers(file)]
    return f"{len(rows)} answers: " + ", ".join(
        f"{sum(row.get(name, 0) for row in rows):.0f} {name}" for name in FAULTS
    )


def with_earlier(folder: Path, results: dict[str, dict[str, Estimate]]) -> dict[str, dict[str, Estimate]]:
    """The results beside those of the benchmarks that the run was asked for before."""
    try:
        earlier = read_results(folder)
    except FileNotFoundError:
        return results
    return {label: earlier.get(label, {}) | results.get(label, {}) for label in dict.fromkeys((*earlier, *results))}


def end(status: int) -> NoReturn:
    """End this process, after what was registered for its end, without taking the interpreter apart: nanobind, in the Triton
    that vLLM imports, would then tell what it holds to be leaks, after the table."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@hydra.main(config_path="../../../conf/evaluation", config_name="eval", version_base=None)
def main(config: DictConfig) -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # the console is for the progress and the table
    # The engine in this process: one of its own would outlive a kill of this one and keep the GPU's memory.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    try:
        complete(config)
        check(config)
        os.environ.update({name: str(value) for name, value in config.env.items()})
        if config.rehearse:
            from recipe.holderpo.rehearsal.evaluation import rehearse_evaluation

            sys.exit(rehearse_evaluation(config, sys.argv[1:]))
        results = evaluate(config)
        folder = Path(config.out_dir) / config.run
        results = with_earlier(folder, results)
    except (ConfigError, OmegaConfBaseException) as error:
        print_error(error)
        sys.exit(ExitStatus.REFUSED)
    write(folder, results)
    print(table.as_text(results))
    print(f"± standard error over problems. {faults(folder)}\n{folder}")


if __name__ == "__main__":
    if wants_help(sys.argv[1:]):
        sys.exit(print(__doc__.strip()))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # raised to here, where Hydra would print some lines of its own
    status: Any = ExitStatus.FINISHED
    try:
        with refusals_of_hydra():
            main()
    except ConfigError as error:
        print_error(error)
        status = ExitStatus.REFUSED
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was")
        status = ExitStatus.INTERRUPTED
    except SystemExit as ended:
        status = ended.code
    end(int(status or 0))
