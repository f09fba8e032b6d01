"""Data files and model folders, checked before Ray starts: what verl would find a minute later, in a worker, or never."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from omegaconf import DictConfig, OmegaConf

from recipe.holderpo.config.cross_checks import SINGLE_TURN, data_files
from recipe.holderpo.config.errors import ConfigError

ROWS_AT_ONCE = 10_000  # bounds the memory, whatever the file's size
SAMPLED = 500  # prompts of a file that are tokenized here; verl tokenizes them all


def check_inputs(config: DictConfig) -> None:
    """Data and model, as far as they are there: what the command makes itself may not be yet, and `check_config` has named
    what is missing.

    Raises:
        ConfigError: what is wrong with the first that cannot be used.
    """
    if OmegaConf.select(config, "data.custom_cls.path") is not None:  # your own data set class may read anything
        return
    files = [*data_files(config, "data.train_files"), *data_files(config, "data.val_files")]
    if all(file is not None and Path(file).expanduser().exists() for file in files):
        check_data(config)
        model = Path(str(config.actor_rollout_ref.model.path))
        if config.embedded_model is None or (model / "config.json").exists():
            check_model(config)


def check_data(config: DictConfig) -> None:
    """Every row of every data file: the columns that verl reads, and a prompt that says something.

    Rows with the same `extra_info.index` are reported, not refused: each is trained on in a group of its own.

    Raises:
        ConfigError: names the file and the first wrong row (from 0).
    """
    for key in ("data.train_files", "data.val_files"):
        all_rows = 0
        for file in data_files(config, key):
            path = Path(str(file)).expanduser()
            rows, ids, sources = 0, list[pa.Array](), set[str]()
            for table in _tables(key, path):
                _check_columns(key, path, table, config.data.prompt_key)
                _check_prompts(key, path, table[config.data.prompt_key].combine_chunks(), rows)
                _check_truths(key, path, table["reward_model"], rows)
                rows += len(table)
                ids += _ids(table)
                sources |= {*pc.unique(table["data_source"]).to_pylist()}
            if rows == 0:
                raise ConfigError(f"{key} is {str(path)!r}, which has no rows; allowed are files with at least one")
            if _rewards_are_verls_own(config):
                _check_sources(key, path, sources)
            all_rows += rows
            repeated = len(pa.chunked_array(ids)) - len(pc.unique(pa.chunked_array(ids))) if ids else 0
            if repeated:
                print(f"{key}: {repeated} of {rows} rows have an extra_info.index that an earlier row has: {path}")
        if key == "data.train_files" and all_rows < config.data.train_batch_size:
            raise ConfigError(
                f"data.train_batch_size is {config.data.train_batch_size}; allowed are at most the {all_rows} rows of {key}"
            )


def check_model(config: DictConfig) -> None:
    """The model's tokenizer and chat template, on the training data's own prompts.

    Raises:
        ConfigError: there is none, it needs code that came with the model and is not trusted, or no prompt survives it.
    """
    from transformers import AutoTokenizer

    key, model = "actor_rollout_ref.model.path", config.actor_rollout_ref.model
    paths = dict.fromkeys(os.path.expanduser(str(path)) for path in (model.path, model.get("tokenizer_path")) if path)
    for path in paths:
        _check_files(key, path, model.trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained([*paths][-1], trust_remote_code=model.trust_remote_code)
    except Exception as error:  # whatever a broken folder makes transformers raise
        raise ConfigError(
            f"{key} is {str(model.path)!r}; allowed is a model with its tokenizer: {_one_line(error)}"
        ) from None
    template = model.custom_chat_template or tokenizer.chat_template
    if template is None:
        raise ConfigError(
            f"actor_rollout_ref.model.custom_chat_template is null; allowed is a template, since the tokenizer of "
            f"{str(model.path)!r} has none"
        )
    for file in data_files(config, "data.train_files"):
        _check_template(config, tokenizer, template, Path(str(file)).expanduser())


def _tables(key: str, path: Path) -> Iterator[pa.Table]:
    """A file's rows, some at a time."""
    import datasets

    kinds = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
    if path.suffix not in kinds:
        raise ConfigError(f"{key} is {str(path)!r}; allowed are {', '.join(kinds)}")
    try:
        rows = datasets.load_dataset(kinds[path.suffix], data_files=str(path), split="train", streaming=True)
        for table in rows.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
            table.validate(full=True)  # texts that are not UTF-8, among others
            yield table
    except ConfigError:
        raise
    except Exception as error:  # pyarrow's, datasets' and the decoder's
        raise ConfigError(f"{key} is {str(path)!r}, which cannot be read: {_one_line(error)}") from None


def _check_columns(key: str, path: Path, table: pa.Table, prompt: str) -> None:
    for column in (prompt, "data_source", "reward_model"):
        if column not in table.column_names:
            raise ConfigError(
                f"{key} is {str(path)!r}, which has no column {column!r}; allowed are files with {prompt!r} (a list of "
                f"messages), 'data_source' and 'reward_model' (with 'ground_truth'); it has {', '.join(table.column_names)}"
            )
    reward = table.schema.field("reward_model").type
    if not pa.types.is_struct(reward) or reward.get_field_index("ground_truth") < 0:
        raise ConfigError(f"{key} is {str(path)!r}, whose reward_model has no 'ground_truth'; it is {reward}")
    kind = table.schema.field(prompt).type
    of_messages = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not of_messages or not pa.types.is_struct(kind.value_type) or kind.value_type.get_field_index("content") < 0:
        raise ConfigError(
            f"{key} is {str(path)!r}, whose column {prompt!r} is {kind}; allowed is a list of messages, each with 'role' "
            "and 'content'"
        )


def _check_prompts(key: str, path: Path, prompts: pa.Array, first: int) -> None:
    """Each has a message, and its last one has a text (or parts, where there are images)."""
    lengths = pc.fill_null(pc.list_value_length(prompts), 0)
    empty = pc.equal(lengths, 0)
    if not pc.any(empty).as_py():
        content = pc.struct_field(pc.list_flatten(prompts), "content")
        ends = pc.subtract(pc.cumulative_sum(pc.cast(lengths, pa.int64())), 1)
        last = content.take(ends)
        is_text = pa.types.is_string(last.type) or pa.types.is_large_string(last.type)
        sizes = pc.utf8_length(pc.utf8_trim_whitespace(last)) if is_text else pc.list_value_length(last)
        empty = pc.equal(pc.fill_null(sizes, 0), 0)
    row = pc.index(empty, True).as_py()
    if row >= 0:
        raise ConfigError(
            f"{key} is {str(path)!r}; row {first + row} has an empty prompt; allowed are prompts with a text"
        )


def _check_truths(key: str, path: Path, rewards: pa.ChunkedArray, first: int) -> None:
    """Each has a ground truth, if an empty one: the reward function decides what that means."""
    truths = pa.concat_arrays([pc.struct_field(chunk, "ground_truth") for chunk in rewards.chunks])
    row = pc.index(pc.is_null(truths), True).as_py()
    if row >= 0:
        raise ConfigError(
            f"{key} is {str(path)!r}; row {first + row} has no ground_truth in its reward_model; allowed are rows with one"
        )


def _rewards_are_verls_own(config: DictConfig) -> bool:
    """No reward function, no manager of the user's, and no agent that may give rewards itself."""
    agent = config.actor_rollout_ref.rollout.agent.default_agent_loop
    reward = config.reward
    return (
        reward.custom_reward_function.path is None
        and reward.reward_manager.source == "register"
        and agent in SINGLE_TURN
    )


def _check_sources(key: str, path: Path, sources: set[str]) -> None:
    """Each is one that verl's own rewards know, where there is no reward function."""
    from verl.utils.reward_score import default_compute_score

    for source in sorted(map(str, sources)):
        try:
            default_compute_score(source, "", "")
        except NotImplementedError:
            raise ConfigError(
                f"reward.custom_reward_function.path is null; allowed is a file with a reward function, since verl has none "
                f"for the data_source {source!r} of {key} ({path})"
            ) from None
        except Exception:  # it knows the source: an empty answer may be no answer to it
            continue


def _ids(table: pa.Table) -> list[pa.Array]:
    """`extra_info.index`, where there is one."""
    if "extra_info" not in table.column_names:
        return []
    kind = table.schema.field("extra_info").type
    if not pa.types.is_struct(kind) or kind.get_field_index("index") < 0:
        return []
    return [pc.cast(pc.struct_field(chunk, "index"), pa.string()) for chunk in table["extra_info"].chunks]


def _check_files(key: str, path: str, trusted: bool) -> None:
    """What a model's two JSON files say, in a folder or on the hub."""
    from transformers.utils import cached_file

    for name in ("config.json", "tokenizer_config.json"):
        try:
            own_code = json.loads(Path(str(cached_file(path, name))).read_text(encoding="utf-8")).get("auto_map")
        except OSError as error:  # what transformers raises for a missing file
            raise ConfigError(
                f"{key} is {path!r}, which has no {name}; allowed is a model with its tokenizer: {_one_line(error)}"
            ) from None
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{key} is {path!r}; its {name} cannot be read: {_one_line(error)}") from None
        if own_code and not trusted:
            # Asked for here because verl's reward loop loads the tokenizer with its code whatever this key says.
            raise ConfigError(
                f"actor_rollout_ref.model.trust_remote_code is False; allowed for {path!r} is True, since its {name} names "
                f"code that would be run ({own_code}): read it first"
            )


def _check_template(config: DictConfig, tokenizer: Any, template: str, path: Path) -> None:
    prompts = next(_tables("data.train_files", path))[config.data.prompt_key].slice(0, SAMPLED).to_pylist()
    limit, too_long = config.data.max_prompt_length, 0
    for row, messages in enumerate(prompts):
        messages = [{name: value for name, value in message.items() if value is not None} for message in messages]
        try:
            text = tokenizer.apply_chat_template(
                messages,
                **{
                    **config.data.get("apply_chat_template_kwargs", {}),
                    "chat_template": template,
                    "add_generation_prompt": True,
                    "tokenize": False,
                },
            )
        except Exception as error:  # a template raises what it likes
            raise ConfigError(
                f"the chat template of {config.actor_rollout_ref.model.path} refuses row {row} of {path}: {_one_line(error)}"
            ) from None
        said = messages[-1]["content"]
        if isinstance(said, str):
            if said.strip() not in text:
                raise ConfigError(
                    f"the chat template of {config.actor_rollout_ref.model.path} leaves out what row {row} of {path} says"
                )
            # A tokenizer without its vocabulary encodes every text to nothing.
            if not tokenizer.encode(said, add_special_tokens=False):
                raise ConfigError(
                    f"actor_rollout_ref.model.path is {config.actor_rollout_ref.model.path!r}, whose tokenizer knows nothing "
                    f"of row {row} of {path}; allowed is a model with its tokenizer"
                )
        too_long += len(tokenizer.encode(text, add_special_tokens=False)) > limit
    if too_long == len(prompts):
        raise ConfigError(
            f"data.max_prompt_length is {limit}; every one of the first {len(prompts)} prompts of {path} is longer"
        )
    if too_long:
        fate = "left out" if config.data.filter_overlong_prompts else "an error when they are drawn"
        print(
            f"{too_long} of the first {len(prompts)} prompts of {path} are longer than data.max_prompt_length={limit}: {fate}"
        )


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
