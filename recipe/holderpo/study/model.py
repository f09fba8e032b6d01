"""A small Qwen2's forward pass in few calls, a third faster on a CPU than transformers', and sampling from it.

The parameters stay those of the transformers model, which an optimiser trains.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2ForCausalLM

Cache = list[tuple[Tensor, Tensor]]


class FastQwen2:
    """Logits of a `Qwen2ForCausalLM` with as many key-value heads as heads and tied embeddings, in float32.

    Every row of a batch has the same length, without padding on the left: the positions are 0, 1, ...
    """

    def __init__(self, model: Qwen2ForCausalLM):
        config = model.config
        assert config.num_key_value_heads == config.num_attention_heads and config.tie_word_embeddings
        self.model = model
        self.weights = dict(model.named_parameters())
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.head_size, self.epsilon = config.hidden_size // config.num_attention_heads, config.rms_norm_eps
        positions = torch.arange(config.max_position_embeddings)[None]
        self.cos, self.sin = model.model.rotary_emb(torch.zeros(1), positions)

    def new_cache(self, rows: int, length: int) -> Cache:
        """Keys and values of each layer, to be filled by `logits`."""
        shape = rows, self.heads, length, self.head_size
        return [(torch.zeros(shape), torch.zeros(shape)) for _ in range(self.layers)]

    def logits(self, ids: Tensor, first: int = 0, cache: Cache | None = None, start: int = 0) -> Tensor:
        """(B, T - first, vocabulary) float32: logits at the positions from `first` on of `ids`, (B, T) int64.

        Args:
            cache: keys and values of the `start` tokens before `ids`; those of `ids` are added to it. None without any.
        """
        rows, length = ids.shape
        embedding = self.weights["model.embed_tokens.weight"]
        hidden = F.embedding(ids, embedding)
        cos, sin = self.cos[0, start : start + length], self.sin[0, start : start + length]
        for layer in range(self.layers):
            name = f"model.layers.{layer}."
            x = self._norm(hidden, name + "input_layernorm")
            query, key, value = (
                self._linear(x, f"{name}self_attn.{part}_proj").view(rows, length, self.heads, -1).transpose(1, 2)
                for part in "qkv"
            )
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
            if cache is not None:
                keys, values = cache[layer]
                keys[:, :, start : start + length], values[:, :, start : start + length] = key, value
                key, value = keys[:, :, : start + length], values[:, :, : start + length]
            x = F.scaled_dot_product_attention(query, key, value, is_causal=length > 1)
            hidden = hidden + self._linear(x.transpose(1, 2).flatten(2), f"{name}self_attn.o_proj")
            x = self._norm(hidden, name + "post_attention_layernorm")
            x = F.silu(self._linear(x, name + "mlp.gate_proj")) * self._linear(x, name + "mlp.up_proj")
            hidden = hidden + self._linear(x, name + "mlp.down_proj")
        return F.linear(self._norm(hidden[:, first:], "model.norm"), embedding)

    def log_prob(self, ids: Tensor, prompt_length: int) -> Tensor:
        """(B, T - prompt_length): log-probabilities, nats, of the tokens of `ids` (B, T) after the prompt."""
        logits = self.logits(ids[:, :-1], first=prompt_length - 1)
        return logits.log_softmax(-1).gather(-1, ids[:, prompt_length:, None]).squeeze(-1)

    @torch.no_grad()
    def sample(self, prompts: Tensor, length: int, end: int, generator: torch.Generator) -> Tensor:
        """(B, length) int64: tokens sampled at temperature 1 after `prompts`, (B, prompt length) int64.

        What follows a row's first `end` token is `end`."""
        rows, begun = prompts.shape
        cache = self.new_cache(rows, begun + length)
        logits = self.logits(prompts, begun - 1, cache)
        tokens = torch.full((rows, length), end)
        alive = torch.ones(rows, dtype=torch.bool)
        for position in range(length):
            drawn = torch.multinomial(logits[:, -1].softmax(-1), 1, generator=generator)[:, 0]
            tokens[alive, position] = drawn[alive]
            alive &= drawn != end
            if not alive.any() or position == length - 1:
                break
            logits = self.logits(tokens[:, position : position + 1], 0, cache, begun + position)
        return tokens

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def response_mask(tokens: Tensor, end: int) -> Tensor:
    """(B, T) bool: the tokens of each row up to its first `end`, that one included."""
    ended = (tokens == end).long().cumsum(1)
    return (ended == 0) | ((ended == 1) & (tokens == end))
