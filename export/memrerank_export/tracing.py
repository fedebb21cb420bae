"""From a transformers encoder to an ONNX graph: exported by optimum and fused by ONNX Runtime's optimizer.

The graph does not depend on how wide the model is. So it is traced on a narrow copy with random weights, which takes
seconds and little memory, and every initializer is recognized by its values and gets the name and the shape of the
checkpoint's tensor; the weights themselves are streamed into the artifact later, as those of decoders are.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from memrerank_export.errors import CheckpointError, ExportError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NARROW_HEAD, NARROW_INNER = 4, 6
"""Width of a head and of the inner layer in the narrow copy."""

Tensors = Mapping[str, npt.NDArray[np.float32]]


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the checkpoint's model, from its config.json alone."""
    torch = _require_torch()
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in _model(_config(folder)).named_parameters()}


def trace(folder: Path) -> ir.Model:
    """The graph of the model in `folder`; its weights have the names and shapes of the checkpoint, and no values."""
    narrow = _narrow_model(folder)
    with tempfile.TemporaryDirectory() as temporary:
        model = _fused(_exported(narrow, Path(temporary)), narrow.config)
    _drop_zero_biases(model)
    _split_joined_biases(model)
    _name_weights(model, {name: p.detach().numpy() for name, p in narrow.named_parameters()}, weight_shapes(folder))
    return model


def _narrow_model(folder: Path) -> PreTrainedModel:
    """The model with narrow layers, and random weights that are all different."""
    torch = _require_torch()
    config = _config(folder)
    config.hidden_size = NARROW_HEAD * config.num_attention_heads
    config.intermediate_size = NARROW_INNER
    model = _model(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model


def _exported(model: PreTrainedModel, folder: Path) -> Path:
    from optimum.exporters.onnx import onnx_export_from_model

    with _quiet():
        onnx_export_from_model(model, folder, task="text-classification", do_validation=False, no_post_process=True)
    return folder / "model.onnx"


def _fused(graph: Path, config: PretrainedConfig) -> ir.Model:
    """The graph with attention, GELU and their biases as one operator each.

    Norms are left apart from the additions before them: ONNX Runtime's operator for both is three times slower on CPU.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.use_multi_head_attention = True  # keeps the projections apart, as matrices of their own
    options.enable_embed_layer_norm = False
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    with _quiet():
        fused = optimize_model(
            str(graph),
            model_type="bert",
            num_heads=config.num_attention_heads,
            hidden_size=config.hidden_size,
            optimization_options=options,
            opt_level=0,
        )
    converted: ir.Model = ir.from_proto(fused.model)
    return converted


def _name_weights(model: ir.Model, values: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Name each weight after the tensor that has its values, as it is or transposed, and forget the values."""
    direct = {_key(value): name for name, value in values.items()}
    transposed = {_key(value.T): name for name, value in values.items() if value.ndim == 2}
    for initializer in list(model.graph.initializers.values()):
        assert initializer.const_value is not None, f"{initializer.name} is an input"
        key = _key(initializer.const_value.numpy())
        if key in direct or key in transposed:
            name = direct.get(key) or transposed[key]
            initializer.name, initializer.const_value = name, None
            initializer.shape = ir.Shape(shapes[name] if key in direct else shapes[name][::-1])
    if missing := sorted(set(values) - set(model.graph.initializers)):
        raise ExportError(
            f"The graph that optimum made lacks {', '.join(missing[:3])}; install the versions of optimum-onnx and "
            "transformers that memrerank[encoders] asks for."
        )


def _drop_zero_biases(model: ir.Model) -> None:
    """Take the bias from norms that have none: the exporter writes zeros, as many as the narrow copy is wide."""
    for node in model.graph:
        bias = node.inputs[2] if node.op_type == "LayerNormalization" else None
        values = None if bias is None else ir.convenience.get_const_tensor(bias)
        if values is not None and not values.numpy().any():
            node.replace_input_with(2, None)


def _split_joined_biases(model: ir.Model) -> None:
    """Give the biases of queries, keys and values back their own initializers; they are joined again when loaded."""
    for node in list(model.graph):
        if node.op_type == "MultiHeadAttention" and (joined := node.inputs[3]) is not None:
            assert joined.const_value is not None, f"{joined.name} is no constant"
            parts = [ir.val(f"{joined.name}.{i}", const_value=ir.tensor(part))
                     for i, part in enumerate(np.split(joined.const_value.numpy(), 3))]  # fmt: skip
            for part in parts:
                model.graph.initializers.add(part)
            concat = ir.node("Concat", parts, {"axis": 0})
            model.graph.insert_before(node, [concat])
            node.replace_input_with(3, concat.outputs[0])
            del model.graph.initializers[str(joined.name)]


def _key(array: npt.NDArray[Any]) -> bytes:
    return repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()


def _config(folder: Path) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"transformers cannot read {folder / 'config.json'}: {error}") from error
    return config


def _model(config: PretrainedConfig) -> PreTrainedModel:
    from transformers import AutoModelForSequenceClassification

    make: Any = AutoModelForSequenceClassification.from_config
    model: PreTrainedModel = make(config, dtype=_require_torch().float32, trust_remote_code=False)
    model.train(False)
    return model


def _require_torch() -> Any:
    """The torch module; ExportError when something that converting an encoder needs is not installed."""
    try:
        import optimum.exporters.onnx  # noqa: F401
        import torch
    except ImportError as error:
        raise ExportError(
            f"{error.name} is not installed; pip install 'memrerank[encoders]' brings what encoders need "
            "(optimum-onnx, transformers, torch)."
        ) from error
    return torch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of torch and ONNX Runtime about how they trace and fuse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
