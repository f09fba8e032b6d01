"""The prompt templates of the paper's protocol, as chat templates of one user message.

They are applied by verl (actor_rollout_ref.model.custom_chat_template, set by conf/task/math.yaml), by the evaluation and by
the data builder's count of prompt tokens, always from here; the data itself holds the bare problem."""

from typing import Any

_BEGIN = "{{ bos_token or '' }}"  # none for Qwen; DeepSeek's models are trained with one

TEMPLATES: dict[str, str | None] = {
    # The last line is an expression because Jinja drops the newline that a template ends with.
    # Qwen2.5-Math's own format with the system prompt that its authors evaluate with.
    "qwen_math": _BEGIN
    + "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n{{ messages[-1]['content'] }}<|im_end|>\n{{ '<|im_start|>assistant\n' }}",
    # DeepSeek-R1-Zero's.
    "r1": _BEGIN + "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. "
    "The Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. "
    "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.\n"
    "User: {{ messages[-1]['content'] }}\nAssistant: <think>",
    # The problem and nothing else.
    "none": _BEGIN + "{{ messages[-1]['content'] }}",
    # The model's own, from its tokenizer.
    "model": None,
}
"""Name -> Jinja template, as `tokenizer.apply_chat_template(..., chat_template=)` takes it; None: the tokenizer's own."""


def prompt_ids(tokenizer: Any, problem: str, template: str | None) -> list[int]:
    """The token ids of a problem's prompt.

    Args:
        tokenizer: a Hugging Face tokenizer.
        problem: the bare problem.
        template: a value of `TEMPLATES`.
    """
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem}], chat_template=template, add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def chat_template(name: str) -> str | None:
    """The template of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in TEMPLATES:
        raise ValueError(f"template is {name!r}; allowed are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
