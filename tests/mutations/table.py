"""Mutations: one place of the code each, and the tests that must notice. "found" is what stands there, once."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_RECIPE = "recipe/holderpo"


@dataclass(frozen=True)
class Mutation:
    name: str
    file: str
    found: str
    put: str
    tests: tuple[str, ...]
    starts_stack: bool = False


def mutated(text: str, mutation: Mutation) -> str:
    """The file with the mutation. Raises ValueError where its place is not there exactly once."""
    if text.count(mutation.found) != 1:
        raise ValueError(f"{mutation.file} has {text.count(mutation.found)} places {mutation.found!r}")
    return text.replace(mutation.found, mutation.put)


_TRAINER = f"{_RECIPE}/training/trainer.py"
_WORKER = f"{_RECIPE}/training/worker.py"
_RANK_SAVE = f"{_RECIPE}/training/rank_save.py"
_COLLAPSE = f"{_RECIPE}/fault_tolerance/collapse.py"
_WIRING = ("tests/training/test_trainer.py",)

_STALLS, _PROGRESS = f"{_RECIPE}/fault_tolerance/stalls.py", f"{_RECIPE}/fault_tolerance/progress.py"

MUTATIONS = (
    # Checkpoints that are written while training goes on
    Mutation(
        "what is to be saved is not copied",
        _RANK_SAVE,
        'value.detach().to("cpu", copy=True)',
        "value.detach()",
        ("tests/training/test_rank_save.py",),
    ),
    Mutation(
        "a copy may take all memory",
        _RANK_SAVE,
        "PART_OF_MEMORY * available_memory()",
        "available_memory()",
        ("tests/training/test_rank_save.py",),
    ),
    Mutation(
        "a checkpoint is committed before all ranks have written",
        _TRAINER,
        "while None in (parts := self.actor_rollout_wg.saved_part()):",
        "while not any(parts := self.actor_rollout_wg.saved_part()):",
        _WIRING,
    ),
    Mutation(
        "a save does not wait for the one before",
        _TRAINER,
        "        self._finish_save()  # that of an earlier step\n",
        "",
        _WIRING,
    ),
    Mutation(
        "a run that collapses leaves its save unfinished",
        _TRAINER,
        "                self._wait_while_written()\n",
        "",
        _WIRING,
    ),
    Mutation(
        "a save is undone while a rank still writes",
        _TRAINER,
        "                self._written()  # until then a rank may write into the folder\n",
        "",
        _WIRING,
    ),
    Mutation(
        "an error is left to the interpreter, which waits for the console",
        f"{_RECIPE}/fault_tolerance/console.py",
        "        traceback.print_exc()\n        sys.exit(1)\n",
        "        raise\n",
        ("tests/fault_tolerance/test_console.py",),
    ),
    Mutation(
        "the failure of an earlier save ends a run that stops",
        _TRAINER,
        "        if step == self.global_steps and self._is_last():\n",
        "        if self._is_last():\n",
        _WIRING,
    ),
    Mutation(
        "a Ray that was slow to start is left",
        f"{_RECIPE}/training/task_runner.py",
        "            end_processes(server.pids() if server else ())\n",
        "",
        ("tests/training/test_verl_internals.py",),
    ),
    Mutation(
        "a run is stuck as soon as NCCL reports",
        f"{_RECIPE}/config/cross_checks.py",
        "floor <= timeout",
        "floor < timeout",
        ("tests/config/test_configs.py::test_on_gpus_a_collective_ends_before_the_run_is_stuck",),
    ),
    # A run that hangs, and one on other numbers of nodes and ranks
    Mutation(
        "the smaller of the two limits of a phase holds",
        _PROGRESS,
        "return max(self._settings.floor_s, self._settings.medians * median)",
        "return min(self._settings.floor_s, self._settings.medians * median)",
        ("tests/fault_tolerance/test_progress.py",),
    ),
    Mutation(
        "an error of a source of progress ends the reports",
        _PROGRESS,
        "            except Exception:  # without",
        "            except KeyError:  # without",
        ("tests/fault_tolerance/test_progress.py",),
    ),
    Mutation(
        "a stuck run's processes are left",
        _STALLS,
        "                if own_ray:\n                    end_processes(keep())\n",
        "",
        ("tests/fault_tolerance/test_stalls.py",),
    ),
    Mutation(
        "what has been finished is not passed on",
        f"{_RECIPE}/fault_tolerance/liveness.py",
        "                    note(process, done_there)\n",
        "                    pass\n",
        ("tests/fault_tolerance/test_liveness.py",),
    ),
    Mutation(
        "shards in the order of the mesh's first dimension",
        f"{_RECIPE}/training/reshard.py",
        "mesh.movedim(number, 0)",
        "mesh.movedim(0, 0)",
        ("tests/training/test_reshard.py",),
    ),
    Mutation(
        "a driver that the user has stopped is started again",
        f"{_RECIPE}/launch/elastic.py",
        " and status == ExitStatus.STOPPED and not signalled:",
        " and status == ExitStatus.STOPPED:",
        ("tests/launch/test_elastic.py",),
    ),
    # Those that a review found would have survived
    Mutation(
        "the lower clip is used only where there is an upper one",
        f"{_RECIPE}/policy_loss.py",
        "low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low",
        "low = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high",
        ("tests/training/test_policy_loss.py",),
    ),
    Mutation(
        "the limits of guard are not looked at",
        _TRAINER,
        "        self.collapse.step(self.global_steps, metrics)\n",
        "",
        _WIRING,
    ),
    Mutation(
        "exit status of a collapse",
        f"{_RECIPE}/main.py",
        "sys.exit(ExitStatus.GUARD)",
        "sys.exit(ExitStatus.FINISHED)",
        ("tests/test_main.py",),
    ),
    Mutation(
        "a failed save ends the run",
        _TRAINER,
        'self._trained[1]["checkpoint/failed"] = 1.0',
        "raise",
        _WIRING,
    ),
    Mutation(
        "an episode's numbers are those of its first sample",
        f"{_RECIPE}/training/metrics.py",
        "int(number) > last[episode][0]",
        "int(number) < last[episode][0]",
        ("tests/training/test_metrics.py",),
    ),
    Mutation(
        "a full response that ended is cut off",
        f"{_RECIPE}/rewards/manager.py",
        "full and not ended",
        "full",
        ("tests/rewards/test_manager.py",),
    ),
    Mutation(
        "a validation after a resume is recorded each time",
        _TRAINER,
        "self.global_steps == self.record.resumed_at and self.record.lacks_line",
        "self.global_steps == self.record.resumed_at",
        _WIRING,
    ),
    # Trainer
    Mutation(
        "the rule of p does not see the metrics",
        _TRAINER,
        "            self.p.observe(self.global_steps, metrics | reward)\n",
        "            pass\n",
        _WIRING,
    ),
    Mutation(
        "p of the step before",
        _TRAINER,
        "batch.extra_info[P_KEY] = self.p.at(self.global_steps)",
        "batch.extra_info[P_KEY] = self.p.at(self.global_steps - 1)",
        _WIRING,
    ),
    Mutation(
        "the state of the parts is not restored",
        _TRAINER,
        "                part.load_state_dict(state[name])\n",
        "                pass\n",
        _WIRING,
    ),
    Mutation(
        "the last step's validation is not waited for",
        _TRAINER,
        " or self.global_steps >= self.total_training_steps))",
        "))",
        _WIRING,
    ),
    Mutation(
        "SIGTERM in the last step stops it too",
        _TRAINER,
        "if stop_requested(self.config.run_dir) and self.global_steps < self.total_training_steps:",
        "if stop_requested(self.config.run_dir):",
        _WIRING,
    ),
    Mutation(
        "the rule is asked each time that p is read",
        f"{_RECIPE}/training/step_p.py",
        "if step != self.step or self.p is None:",
        "if True:",
        ("tests/training/test_step_p.py",),
    ),
    Mutation(
        "separate_async with the other modes' worker",
        _TRAINER,
        "    worker_cls = HolderDetachActorWorker\n",
        "",
        ("tests/stack/test_separate_async.py",),
        starts_stack=True,
    ),
    # Worker
    Mutation(
        "a mean over sequences is sent as a mean",
        _WORKER,
        "Metric(AggregationType.SUM, values[name] * count[how])",
        "Metric(AggregationType.SUM, values[name])",
        ("tests/training/test_worker.py",),
    ),
    Mutation(
        "ranks do not meet after a failed write",
        _WORKER,
        "            torch.distributed.barrier()\n",
        "            pass\n",
        ("tests/training/test_worker.py",),
    ),
    Mutation(
        "a batch without p is trained with the last one",
        _WORKER,
        "    if P_KEY not in data:\n",
        "    if False:\n",
        ("tests/training/test_worker.py",),
    ),
    # Guard
    Mutation(
        "a collapse is one step late",
        _COLLAPSE,
        "step - self.since + 1 >= self.limits.steps:",
        "step - self.since >= self.limits.steps:",
        ("tests/fault_tolerance/test_collapse.py",),
    ),
    Mutation(
        "a NaN is inside the limits",
        _COLLAPSE,
        "inside = number <= limit if above else number >= limit",
        "inside = not (number > limit if above else number < limit)",
        ("tests/fault_tolerance/test_collapse.py",),
    ),
    # Resume and checkpoints
    Mutation(
        "every key is free on resume",
        f"{_RECIPE}/config/free_keys.py",
        'return any(fnmatchcase(key, pattern) or fnmatchcase(key, f"{pattern}.*") for pattern in patterns)',
        "return True",
        ("tests/config/test_configs.py",),
    ),
    Mutation(
        "one checkpoint too many is kept",
        f"{_RECIPE}/fault_tolerance/checkpoint.py",
        "step_of(folder) <= newest][:keep]",
        "step_of(folder) <= newest][: keep + 1]",
        ("tests/fault_tolerance/test_checkpoint.py",),
    ),
    # Evaluation
    Mutation(
        "a problem with some of its answers is done",
        f"{_RECIPE}/evaluation/generate.py",
        'if answers[row["index"]] == n]',
        'if answers[row["index"]] >= 1]',
        ("tests/evaluation/test_evaluation.py",),
    ),
    Mutation(
        "a checkpoint is not merged",
        f"{_RECIPE}/evaluation/model.py",
        "return str(_merge(checkpoint))",
        "return str(checkpoint)",
        ("tests/stack/test_math.py",),
        starts_stack=True,
    ),
    # Launch
    Mutation(
        "a rank beyond the last node is taken",
        f"{_RECIPE}/launch/settings.py",
        '_whole(merged, "NODE_RANK", 0, 0, nodes - 1)',
        '_whole(merged, "NODE_RANK", 0, 0, nodes)',
        ("tests/launch/test_settings.py",),
    ),
    Mutation(
        "a token file that a group can read is taken",
        f"{_RECIPE}/launch/cluster.py",
        "path.stat().st_mode & 0o077:",
        "path.stat().st_mode & 0o007:",
        ("tests/launch/test_settings.py",),
    ),
    Mutation(
        "the authors' rising schedule falls",
        f"{_RECIPE}/launch/settings.py",
        '("HOLDER_P_MIN", "HOLDER_P_MAX") if rising',
        '("HOLDER_P_MAX", "HOLDER_P_MIN") if rising',
        ("tests/launch/test_settings.py",),
    ),
    # Rewards
    Mutation(
        "a response that was cut off is graded",
        f"{_RECIPE}/rewards/math.py",
        'if extra_info and extra_info.get("truncated"):',
        "if False:",
        ("tests/rewards/grading/test_grader.py",),
    ),
    Mutation(
        "numbers are equal within a thousandth",
        f"{_RECIPE}/rewards/grading/judge.py",
        "RELATIVE_TOLERANCE = Fraction(1, 10**6)",
        "RELATIVE_TOLERANCE = Fraction(1, 10**3)",
        ("tests/rewards/grading/test_judge.py",),
    ),
    Mutation(
        "a point is a set",
        f"{_RECIPE}/rewards/grading/judge.py",
        "        return False  # a point is no set",
        "        pass",
        ("tests/rewards/grading/test_judge.py",),
    ),
    Mutation(
        "one true side of an equation is enough",
        f"{_RECIPE}/rewards/grading/judge.py",
        "return all_of([compare(value, true) for value in values])",
        "return any_of([compare(value, true) for value in values])",
        ("tests/rewards/grading/test_judge.py",),
    ),
    Mutation(
        "other letters are another question",
        f"{_RECIPE}/rewards/grading/judge.py",
        "    if _letters(given) != _letters(true):\n        return False\n    terms",
        "    terms",
        ("tests/rewards/grading/test_judge.py",),
    ),
    Mutation(
        "a product of roots loses what they have in common",
        f"{_RECIPE}/rewards/grading/terms.py",
        "coefficient * other_coefficient * common",
        "coefficient * other_coefficient",
        ("tests/rewards/grading/test_terms.py",),
    ),
    Mutation(
        "one over a root is the root",
        f"{_RECIPE}/rewards/grading/terms.py",
        "1 / (coefficient * root)",
        "1 / coefficient",
        ("tests/rewards/grading/test_terms.py",),
    ),
    Mutation(
        "i is a name",
        f"{_RECIPE}/rewards/grading/terms.py",
        'if name == "i"',
        'if name == "I"',
        ("tests/rewards/grading/test_terms.py",),
    ),
    Mutation(
        "units are converted the wrong way",
        f"{_RECIPE}/rewards/grading/judge.py",
        "return [known[1] / true_known[1]]",
        "return [true_known[1] / known[1]]",
        ("tests/rewards/grading/test_judge.py",),
    ),
    Mutation(
        "hedges are taken for answers",
        f"{_RECIPE}/rewards/grading/judge.py",
        "    if any(word in reading.HEDGES for word in said):\n        return False\n",
        "",
        ("tests/rewards/grading/test_judge.py",),
    ),
    Mutation(
        "the same digits in another base",
        f"{_RECIPE}/rewards/grading/judge.py",
        "return based[2] == true_based[2] and number",
        "return number",
        ("tests/rewards/grading/test_judge.py",),
    ),
    Mutation(
        "an AIME answer of any size",
        f"{_RECIPE}/rewards/grading/conventions.py",
        "number.denominator != 1 or not self.low <= number <= self.high",
        "number.denominator != 1",
        ("tests/rewards/grading/test_conventions.py",),
    ),
    Mutation(
        "a whole truth is a measurement",
        f"{_RECIPE}/rewards/grading/conventions.py",
        "true_number is None or _is_whole(true_value)",
        "true_number is None",
        ("tests/rewards/grading/test_conventions.py",),
    ),
    Mutation(
        "the tolerance is of the answer's unit",
        f"{_RECIPE}/rewards/grading/conventions.py",
        "abs(number * factor - true_number)",
        "abs(number - true_number)",
        ("tests/rewards/grading/test_conventions.py",),
    ),
    Mutation(
        "conventions cannot be turned off",
        f"{_RECIPE}/rewards/grading/conventions.py",
        "return CONVENTIONS.get(data_source, judge) if conventions else judge",
        "return CONVENTIONS.get(data_source, judge)",
        ("tests/rewards/grading/test_conventions.py",),
    ),
    Mutation(
        "a name that verl does not know passes",
        f"{_RECIPE}/config/verl_schema.py",
        "        if name not in declared and name not in defaults:\n",
        "        if False:\n",
        ("tests/config/test_overrides.py",),
    ),
    Mutation(
        "verl's declared types are not looked at",
        f"{_RECIPE}/config/verl_schema.py",
        "declared.get(name) if _is_checked(declared.get(name)) else _kind_of(default)",
        "_kind_of(default)",
        ("tests/config/test_overrides.py",),
    ),
    Mutation(
        "a run waits for processors that are not there",
        f"{_RECIPE}/config/checks.py",
        "CPUS_OF_A_WORKER * workers + queues + 2\n",
        "CPUS_OF_A_WORKER * workers\n",
        ("tests/config/test_overrides.py",),
    ),
    Mutation(
        "a grading process may map memory as it likes",
        f"{_RECIPE}/rewards/grading/seccomp.py",
        '"brk": 12,',
        '"brk": 12, "mprotect": 10,',
        ("tests/rewards/grading/test_seccomp.py",),
    ),
    Mutation(
        "a 32-bit call is read as the 64-bit call of its number",
        f"{_RECIPE}/rewards/grading/seccomp.py",
        "step(RETURN, KILL)",
        "step(LOAD_WORD, 4)",
        ("tests/rewards/grading/test_seccomp.py",),
    ),
    Mutation(
        "math-verify may go on where memory ran out",
        f"{_RECIPE}/rewards/grading/verify.py",
        "    place.value = BaseException\n",
        "",
        ("tests/rewards/grading/test_grader.py::test_math_verify_cannot_hide_that_memory_ran_out",),
    ),
    # The loss
    Mutation(
        "the smallest of a metric has the wrong sign",
        "holderpo_core/metrics.py",
        '"min": -1.0}',
        '"min": 1.0}',
        ("tests/core/test_loss.py",),
    ),
)
