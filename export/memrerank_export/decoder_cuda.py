"""A Qwen2 or Qwen3 reranker as an ONNX graph for GPUs: many rows a run, in 16 bits, without overflow.

It reads `input_ids` [batch, tokens], rows of one past that may be padded at their ends, and `last` [batch]: where the
last real token of every row stands among all tokens of the run. Past keys and values are given as in the graph for
CPUs; `present_key` and `present_value` [1, kv_heads, past + tokens, head_dim] are the first row's whole past after the
run, so that nothing has to leave the device between the start of a prompt and its documents.

Attention is causal and has no mask, which is what lets ONNX Runtime take its flash kernel; a token never sees the
padding behind it.

16 bits end at 65504, and models such as Qwen3 have a few channels of very large activations. RMSNorm does not change
when its input is scaled, so every number that is added to the residual stream is made `SCALE` times smaller: by powers
of two in the weights of norms, which lose no bit, without a multiplication more in a run. Norms, softmax and the logit
are summed in 32 bits.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

import numpy as np
import onnx_ir as ir

from memrerank_export.config import DecoderConfig
from memrerank_export.decoder import FLOAT, INT64, KeysValues, Model, Positions
from memrerank_export.graph import MICROSOFT, Ops, Shape, as_model, graph_input, graph_output
from memrerank_export.rotary import RotaryTables, rotary_tables

FLOAT16 = ir.DataType.FLOAT16

SCALE = 64
"""How many times smaller the residual stream, and all that is added to it, is than the checkpoint's."""

HALF_SCALE = isqrt(SCALE)
"""How many times smaller gates and their factors are, whose product is added to the stream."""

SCALES = {"input_layernorm.weight": SCALE, "post_attention_layernorm.weight": HALF_SCALE, "_proj.bias": SCALE}
"""How many times smaller vectors with these names are than the checkpoint's."""


def build_cuda_graph(config: DecoderConfig, max_tokens: int, precision: str) -> ir.Model:
    """The graph of the whole reranker for prompts of at most `max_tokens` tokens, in 16 bits unless for fp32."""
    dtype = FLOAT if precision == "fp32" else FLOAT16
    ops = Ops()
    input_ids, last = graph_input("input_ids", INT64, ["batch", "tokens"]), graph_input("last", INT64, ["batch"])
    past = [_past_inputs(config, i, dtype) for i in range(config.num_hidden_layers)]
    model = CudaModel(ops, config, input_ids, last, dtype)
    tables = rotary_tables(ops, "rotary", config.rope_theta, config.head_dim, max_tokens)
    rope = RotaryTables(model.cast(tables.cos), model.cast(tables.sin))
    positions = Positions.of(ops, input_ids, past[0].key)

    x = model.embed(input_ids)
    residual: ir.Value | None = None
    present: list[KeysValues] = []
    for i in range(config.num_hidden_layers):
        at_end = i == config.num_hidden_layers - 1
        x, residual, keys_values = model.layer(i, x, residual, past[i], rope, positions, last_token_only=at_end)
        present.append(keys_values)
    outputs = [graph_output("logit", model.score(x, residual), FLOAT, ["batch"])]
    for i, keys_values in enumerate(present):
        outputs += _present_outputs(config, i, keys_values, dtype)
    return as_model(ops, [input_ids, last, *(value for pair in past for value in (pair.key, pair.value))], outputs)


class CudaModel(Model):
    """The parts of the model that GPUs want otherwise than CPUs."""

    def __init__(
        self, ops: Ops, config: DecoderConfig, input_ids: ir.Value, last: ir.Value, dtype: ir.DataType
    ) -> None:
        super().__init__(ops, replace(config, rms_norm_eps=config.rms_norm_eps / SCALE**2), input_ids)
        self.last, self.dtype = last, dtype
        self.rows = ops("Concat", self.batch, ops.constant("ones", np.array([1, 1, 1], np.int64)), axis=0)
        self.first, self.second = (ops.constant(f"row{i}", np.array([i], np.int64)) for i in (0, 1))
        self.parts = {n: ops.constant(f"part.{n}", np.float32(1 / n)) for n in (SCALE, HALF_SCALE)}
        self.all_tokens = ops.constant("all_tokens", np.array([-1, config.hidden_size], np.int64))
        self.all_heads = ops.constant("all_heads", np.array([-1, config.query_size], np.int64))

    def embed(self, input_ids: ir.Value) -> ir.Value:
        """Rows of the embedding table, [batch, tokens, hidden], scaled for the residual stream."""
        rows = self.ops("Gather", super().weight("model.embed_tokens.weight"), input_ids)
        return self.cast(self.ops("Mul", rows, self.parts[SCALE]))

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
        """Causal grouped-query attention, and the first row's keys and values of past and run.

        With `last_token_only`, the output is that of the last tokens, [batch, hidden]; they are taken behind attention,
        which would want a mask otherwise. Norms of heads undo the scale of queries and keys; Qwen2, which has none, has
        it in the scale of the products.
        """
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        q, k, v = self.projected(name, x, x)
        q, k = (self.rotate(y, n, rope, positions.first) for y, n in ((q, heads), (k, kv_heads)))
        past_key, past_value = (self.ops("Expand", y, self.rows) for y in (past.key, past.value))
        unscaled = 1 if self.config.query_key_norm else SCALE**2
        y, keys, values = self.ops.multi(
            "Attention", 3, q, k, v, None, past_key, past_value,
            q_num_heads=heads, kv_num_heads=kv_heads, is_causal=1, scale=unscaled / self.config.head_dim**0.5,
        )  # fmt: skip
        if last_token_only:
            y = self.rows_of_last(y, self.all_heads)
        return self.linear(f"{name}.o_proj.weight", y), KeysValues(self.first_row(keys), self.first_row(values))

    def mlp(self, name: str, x: ir.Value) -> ir.Value:
        """SwiGLU of gates and factors that both are `HALF_SCALE` times smaller, which `alpha` undoes for the former."""
        gate = self.linear(f"{name}.gate_proj.weight", x)
        gate = self.ops("QuickGelu", gate, domain=MICROSOFT, alpha=float(HALF_SCALE))
        up = self.linear(f"{name}.up_proj.weight", x)
        return self.linear(f"{name}.down_proj.weight", self.ops("Mul", gate, up))

    def score(self, x: ir.Value, residual: ir.Value | None) -> ir.Value:
        """The logit of the last token, [batch], from its state on in 32 bits."""
        assert residual is not None
        total = self.ops("Cast", self.ops("Add", x, residual), to=FLOAT)
        normed = self.norm(total, super().weight("model.norm.weight"))
        weighted = self.ops("Mul", normed, super().weight("score.weight"))
        return self.ops("ReduceSum", weighted, self.last_index, keepdims=0)

    def last_token(self, x: ir.Value) -> ir.Value:
        """The state of every row's last token, [batch, hidden]."""
        return self.rows_of_last(x, self.all_tokens)

    def rows_of_last(self, x: ir.Value, flat: ir.Value) -> ir.Value:
        """The last tokens of x [batch, tokens, width], which `flat` turns into [batch * tokens, width]."""
        return self.ops("Gather", self.ops("Reshape", x, flat), self.last, axis=0)

    def first_row(self, x: ir.Value) -> ir.Value:
        """The first row of x alone: graph outputs stay in memory until a run ends."""
        return self.ops("Slice", x, self.first, self.second)

    def weight(self, name: str) -> ir.Value:
        """A vector in the type and scale of the graph; ONNX Runtime computes it once, when it loads the graph."""
        scale = next((scale for end, scale in SCALES.items() if name.endswith(end)), None)
        weight = super().weight(name)
        return self.cast(weight if scale is None else self.ops("Mul", weight, self.parts[scale]))

    def cast(self, x: ir.Value) -> ir.Value:
        """x in the type of the graph."""
        return x if self.dtype == FLOAT else self.ops("Cast", x, to=self.dtype)


def _past_inputs(config: DecoderConfig, index: int, dtype: ir.DataType) -> KeysValues:
    shape: Shape = [1, config.num_key_value_heads, "past", config.head_dim]
    return KeysValues(graph_input(f"past_key.{index}", dtype, shape), graph_input(f"past_value.{index}", dtype, shape))


def _present_outputs(config: DecoderConfig, index: int, present: KeysValues, dtype: ir.DataType) -> list[ir.Value]:
    shape: Shape = [1, config.num_key_value_heads, "present", config.head_dim]
    return [
        graph_output(f"present_key.{index}", present.key, dtype, shape),
        graph_output(f"present_value.{index}", present.value, dtype, shape),
    ]
