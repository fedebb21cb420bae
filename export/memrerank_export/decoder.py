"""A Qwen2 or Qwen3 reranker as an ONNX graph, in the order in which the model computes.

One graph serves every pass. It reads `input_ids` [batch, tokens] whose rows all follow one past of any length (0 at
the start of the prompt), given per layer as `past_key` and `past_value` [1, kv_heads, past, head_dim]. It returns the
`logit` [batch] of the last token and per layer the `key` and `value` [batch, kv_heads, tokens, head_dim] of the new
tokens, to be appended to the past of the next run. Nothing is ever padded, so no mask is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from memrerank_export.config import DecoderConfig
from memrerank_export.graph import MICROSOFT, Ops, Shape, as_model, graph_input, graph_output
from memrerank_export.rotary import RotaryTables, rotary_tables
from memrerank_export.weights import weight_shapes

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


def build_graph(config: DecoderConfig, max_tokens: int) -> ir.Model:
    """The float32 graph of the whole reranker for prompts of at most `max_tokens` tokens."""
    ops = Ops()
    input_ids = graph_input("input_ids", INT64, ["batch", "tokens"])
    model = Model(ops, config, input_ids)
    past = [_past_inputs(config, i) for i in range(config.num_hidden_layers)]
    rope = rotary_tables(ops, "rotary", config.rope_theta, config.head_dim, max_tokens)
    positions = Positions.of(ops, input_ids, past[0].key)

    x = model.embed(input_ids)
    residual: ir.Value | None = None
    new: list[KeysValues] = []
    for i in range(config.num_hidden_layers):
        last = i == config.num_hidden_layers - 1
        x, residual, keys_values = model.layer(i, x, residual, past[i], rope, positions, last_token_only=last)
        new.append(keys_values)
    logit = model.score(x, residual)

    outputs = [graph_output("logit", logit, FLOAT, ["batch"])]
    for i, keys_values in enumerate(new):
        outputs += _new_outputs(config, i, keys_values)
    return as_model(ops, [input_ids, *(value for pair in past for value in (pair.key, pair.value))], outputs)


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of one layer, each [batch, kv_heads, tokens, head_dim]."""

    key: ir.Value
    value: ir.Value


@dataclass(frozen=True)
class Positions:
    """Where the run's first and last token stand in the prompt, each an int64 [1]."""

    first: ir.Value
    last: ir.Value

    @classmethod
    def of(cls, ops: Ops, input_ids: ir.Value, past_key: ir.Value) -> Positions:
        """The first token follows the past; the last one ends the run."""
        first = ops("Shape", past_key, start=2, end=3)
        tokens = ops("Shape", input_ids, start=1, end=2)
        one = ops.constant("one", np.array([1], np.int64))
        return cls(first, ops("Sub", ops("Add", first, tokens), one))


class Model:
    """The parts of the model; each takes values and returns values."""

    def __init__(self, ops: Ops, config: DecoderConfig, input_ids: ir.Value) -> None:
        self.ops, self.config = ops, config
        self.shapes = weight_shapes(config) | {"score.weight": (config.hidden_size,)}
        self.batch = ops("Shape", input_ids, start=0, end=1)
        self.last_index = ops.constant("last_index", np.array([-1], np.int64))
        self.by_head = ops.constant("by_head", np.array([0, 0, -1, config.head_dim], np.int64))
        self.flat_heads = ops.constant("flat_heads", np.array([0, 0, -1], np.int64))

    @cached_property
    def first_rows(self) -> ir.Value:
        """A zero for every row."""
        return self.ops("ConstantOfShape", self.batch, value=ir.tensor(np.array([0], np.int64)))

    @cached_property
    def to_the_end(self) -> tuple[ir.Value, ir.Value]:
        """End and axis of a slice of all further tokens."""
        end = self.ops.constant("no_end", np.array([np.iinfo(np.int64).max], np.int64))
        return end, self.ops.constant("token_axis", np.array([2], np.int64))

    def embed(self, input_ids: ir.Value) -> ir.Value:
        """Rows of the embedding table, [batch, tokens, hidden]."""
        return self.ops("Gather", self.weight("model.embed_tokens.weight"), input_ids)

    def layer(
        self,
        index: int,
        x: ir.Value,
        residual: ir.Value | None,
        past: KeysValues,
        rope: RotaryTables,
        positions: Positions,
        *,
        last_token_only: bool,
    ) -> tuple[ir.Value, ir.Value, KeysValues]:
        """One decoder layer; returns what it adds, the residual stream it adds to, and the new keys and values.

        The last layer is read at the last token alone, so everything but its keys and values is computed there only.
        """
        layer = f"model.layers.{index}"
        x, residual = self.add_and_norm(f"{layer}.input_layernorm.weight", x, residual)
        x, new = self.attention(f"{layer}.self_attn", x, past, rope, positions, last_token_only=last_token_only)
        if last_token_only:
            residual = self.last_token(residual)
        x, residual = self.add_and_norm(f"{layer}.post_attention_layernorm.weight", x, residual)
        return self.mlp(f"{layer}.mlp", x), residual, new

    def attention(
        self,
        name: str,
        x: ir.Value,
        past: KeysValues,
        rope: RotaryTables,
        positions: Positions,
        *,
        last_token_only: bool,
    ) -> tuple[ir.Value, KeysValues]:
        """Grouped-query attention over the past and the run's own tokens; also the keys and values of the latter.

        A lone last token sees every key, so it needs no causal mask.
        """
        queried = self.last_token(x) if last_token_only else x
        q, k, v = self.projected(name, queried, x)
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        q = self.rotate(q, heads, rope, positions.last if last_token_only else positions.first)
        k = self.rotate(k, kv_heads, rope, positions.first)
        past_key, past_value = (self.ops("Gather", x, self.first_rows, axis=0) for x in (past.key, past.value))
        y, keys, values = self.ops.multi(
            "Attention", 3, q, k, v, None, past_key, past_value,
            q_num_heads=heads, kv_num_heads=kv_heads, is_causal=0 if last_token_only else 1,
        )  # fmt: skip
        new = KeysValues(self.after(keys, positions.first), self.after(values, positions.first))
        return self.linear(f"{name}.o_proj.weight", y), new

    def projected(self, name: str, queried: ir.Value, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries of `queried`, keys and values of x, not rotated yet."""
        q = self.head_norm(f"{name}.q_norm.weight", self.biased(f"{name}.q_proj", queried))
        k = self.head_norm(f"{name}.k_norm.weight", self.biased(f"{name}.k_proj", x))
        return q, k, self.biased(f"{name}.v_proj", x)

    def mlp(self, name: str, x: ir.Value) -> ir.Value:
        """SwiGLU: down(silu(gate(x)) * up(x))."""
        gate = self.ops("QuickGelu", self.linear(f"{name}.gate_proj.weight", x), domain=MICROSOFT, alpha=1.0)
        up = self.linear(f"{name}.up_proj.weight", x)
        return self.linear(f"{name}.down_proj.weight", self.ops("Mul", gate, up))

    def score(self, x: ir.Value, residual: ir.Value | None) -> ir.Value:
        """The logit of the last token, [batch]: its normed state times the score vector."""
        x, _ = self.add_and_norm("model.norm.weight", x, residual)
        weighted = self.ops("Mul", x, self.weight("score.weight"))
        axes = self.ops.constant("token_and_hidden", np.array([1, 2], np.int64))
        return self.ops("ReduceSum", weighted, axes, keepdims=0)

    def biased(self, name: str, x: ir.Value) -> ir.Value:
        """x W' + b, where the architecture has such a bias."""
        y = self.linear(f"{name}.weight", x)
        return self.ops("Add", y, self.weight(f"{name}.bias")) if self.config.query_key_value_bias else y

    def linear(self, name: str, x: ir.Value) -> ir.Value:
        """x W', with the checkpoint's W [out, in] stored as [in, out]."""
        rows, columns = self.shapes[name]
        return self.ops("MatMul", x, self.ops.weight(name, (columns, rows)))

    def add_and_norm(self, name: str, x: ir.Value, residual: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """RMSNorm of x + residual, and that sum."""
        total = x if residual is None else self.ops("Add", x, residual)
        return self.norm(total, self.weight(name)), total

    def norm(self, x: ir.Value, weight: ir.Value) -> ir.Value:
        """RMSNorm over the last axis."""
        epsilon = self.config.rms_norm_eps
        return self.ops("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=epsilon)

    def head_norm(self, name: str, x: ir.Value) -> ir.Value:
        """RMSNorm of every head on its own, of x [batch, tokens, heads * head_dim], where the architecture has it."""
        if not self.config.query_key_norm:
            return x
        heads = self.ops("Reshape", x, self.by_head)
        return self.ops("Reshape", self.norm(heads, self.weight(name)), self.flat_heads)

    def rotate(self, x: ir.Value, heads: int, rope: RotaryTables, position: ir.Value) -> ir.Value:
        """RoPE of x [batch, tokens, heads * head_dim] whose first token stands at `position`."""
        return self.ops(
            "RotaryEmbedding", x, position, rope.cos, rope.sin, domain=MICROSOFT, num_heads=heads, interleaved=0
        )

    def after(self, x: ir.Value, position: ir.Value) -> ir.Value:
        """The tokens from `position` on, of x [batch, heads, tokens, head_dim].

        This also frees the whole of x early: graph outputs stay in memory until a run ends.
        """
        return self.ops("Slice", x, position, *self.to_the_end)

    def last_token(self, x: ir.Value) -> ir.Value:
        """The last token of every row, [batch, 1, hidden]."""
        return self.ops("Gather", x, self.last_index, axis=1)

    def weight(self, name: str) -> ir.Value:
        """A weight in the checkpoint's own layout."""
        return self.ops.weight(name, self.shapes[name])


def _past_inputs(config: DecoderConfig, index: int) -> KeysValues:
    shape: Shape = [1, config.num_key_value_heads, "past", config.head_dim]
    return KeysValues(graph_input(f"past_key.{index}", FLOAT, shape), graph_input(f"past_value.{index}", FLOAT, shape))


def _new_outputs(config: DecoderConfig, index: int, new: KeysValues) -> list[ir.Value]:
    shape: Shape = ["batch", config.num_key_value_heads, "tokens", config.head_dim]
    return [
        graph_output(f"key.{index}", new.key, FLOAT, shape),
        graph_output(f"value.{index}", new.value, FLOAT, shape),
    ]
