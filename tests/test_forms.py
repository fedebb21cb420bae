"""The forms of a matrix: what is stored, how near it is, what ONNX Runtime makes of it and how it reaches a file."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from safetensors.torch import load_file, save_file

from checkpoints import SMALL_VOCABULARY, make_checkpoint
from conftest import source_of
from memrerank.manifest import LayerRecord
from memrerank.session import open_session
from memrerank_export.config import PRECISIONS
from memrerank_export.errors import ExportError
from memrerank_export.estimate import estimate
from memrerank_export.export import export
from memrerank_export.forms import BLOCK, FORMS
from memrerank_export.graph import Ops, as_model, graph_input, graph_output
from memrerank_export.quantize import plan_for, quantize
from memrerank_export.store import store, stored_size
from memrerank_export.weights import Weight
from reference import stored_matrices

Float = npt.NDArray[np.float32]
Layer = Callable[[npt.NDArray], Float]

SHAPES = [(1, 1), (3, 31), (5, 32), (7, 33), (64, 96), (48, 100)]
"""Of matrices [rows, columns]: some fill the last block of columns, some do not."""

unhurried = settings(deadline=None)

PAGE = 4096

LARGEST_HALF = np.float32(65504)
ROUNDS_TO_INFINITY = np.float32(65520)
"""The smallest float32 that rounds to infinity in 16 bits."""


def gaussian(*shape: int, seed: int = 0) -> Float:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def heavy_tailed(*shape: int, seed: int = 0) -> Float:
    return np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)


def decoded(form: str, matrix: Float) -> Float:
    """What is left of `matrix` in a form."""
    return FORMS[form].decode(*FORMS[form].encode(matrix))[:, : matrix.shape[1]]


def int4_parts(matrix: Float) -> tuple[npt.NDArray[np.uint8], Float]:
    """The stored levels and the steps (in float32) of a matrix in the int4 form."""
    levels, scale = FORMS["int4"].encode(matrix)
    return levels, scale.astype(np.float32)


def squared_error(found: Float, expected: Float) -> float:
    return float(np.square(found.astype(np.float64) - expected).sum())


def finite(bound: float) -> st.SearchStrategy[float]:
    return st.floats(-float(np.float32(bound)), float(np.float32(bound)), width=32)


def matrices(bound: float) -> st.SearchStrategy[Float]:
    shapes = st.tuples(st.integers(1, 3), st.integers(1, 70))
    return shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=finite(bound)))


# What each form stores


def test_every_precision_has_its_form() -> None:
    assert set(FORMS) == {*PRECISIONS, "int8-block"}


@unhurried
@given(matrix=matrices(3e38))
def test_fp32_keeps_every_bit(matrix: Float) -> None:
    np.testing.assert_array_equal(decoded("fp32", matrix).view(np.int32), matrix.view(np.int32))


@unhurried
@given(matrix=matrices(65504))
@example(np.float32([[65519.996, 5e-8, 2.9e-8, 6.1e-5, 1.0004883]]))
def test_fp16_is_the_half_precision_of_torch(matrix: Float) -> None:
    (stored,) = FORMS["fp16"].encode(matrix)
    np.testing.assert_array_equal(stored.view(np.int16), torch.from_numpy(matrix).half().view(torch.int16))
    np.testing.assert_array_equal(decoded("fp16", matrix), torch.from_numpy(matrix).half().float())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [gaussian, heavy_tailed])
def test_int8_is_the_per_channel_quantization_of_torch(make: Callable[..., Float], shape: tuple[int, int]) -> None:
    matrix = make(*shape)
    rows = torch.from_numpy(matrix)
    step, zero = rows.abs().amax(1) / 127, torch.zeros(len(rows), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(rows, step, zero, axis=0, quant_min=-127, quant_max=127)
    np.testing.assert_array_equal(FORMS["int8"].encode(matrix)[1][:, 0], step)
    np.testing.assert_array_equal(decoded("int8", matrix), expected)


@unhurried
@given(matrix=matrices(1e30))
def test_int8_is_within_half_a_step(matrix: Float) -> None:
    levels, _ = FORMS["int8"].encode(matrix)
    assert np.abs(levels.astype(int)).max() <= 127
    step = np.maximum(np.abs(matrix).max(axis=1, keepdims=True) / 127, 1e-30)
    assert (np.abs(decoded("int8", matrix) - matrix) <= step * 0.5001).all()


@unhurried
@given(matrix=matrices(1e5))
def test_int4_takes_the_nearest_of_the_sixteen_levels(matrix: Float) -> None:
    levels, scale = int4_parts(matrix)
    values = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % BLOCK))).reshape(*scale.shape, BLOCK)
    chosen = np.stack([levels & 15, levels >> 4], axis=-1).reshape(values.shape)
    step = scale[..., None].astype(np.float64)
    error = np.abs((chosen - 8.0) * step - values)
    every = np.abs((np.arange(16) - 8) * step[..., None] - values[..., None])
    assert (error <= every.min(axis=-1) + 1e-5 * np.abs(step)).all()


@unhurried
@given(matrix=matrices(1e4))
def test_an_int4_block_is_no_worse_than_with_the_step_that_just_covers_it(matrix: Float) -> None:
    values = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % BLOCK))).reshape(len(matrix), -1, BLOCK).astype(np.float64)
    high, low = values.max(-1, keepdims=True), values.min(-1, keepdims=True)
    largest = np.where(high > -low, high, low)
    step = np.float16(largest / -8).astype(np.float64)
    covered = np.clip(np.rint(np.divide(values, step, out=np.zeros_like(values), where=step != 0)), -8, 7) * step
    found = np.pad(decoded("int4", matrix), ((0, 0), (0, -matrix.shape[1] % BLOCK))).reshape(values.shape)
    bound = np.square(covered - values).sum(-1)
    assert (np.square(found - values).sum(-1) <= bound * (1 + 1e-4) + 1e-9 * np.square(largest[..., 0])).all()


@pytest.mark.parametrize("make", [gaussian, heavy_tailed])
def test_int4_is_nearer_than_symmetric_rounding_and_than_onnx_runtimes_own(make: Callable[..., Float]) -> None:
    matrix = make(96, 512)
    step = np.abs(matrix.reshape(96, -1, BLOCK)).max(-1, keepdims=True) / np.float32(7)
    nearest = (np.rint(matrix.reshape(96, -1, BLOCK) / step) * step).reshape(matrix.shape)
    ours = squared_error(decoded("int4", matrix), matrix)
    assert ours < 0.8 * squared_error(nearest, matrix)
    assert ours < 0.97 * squared_error(onnx_runtimes_int4(matrix), matrix)
    assert ours > 0.002 * squared_error(np.zeros_like(matrix), matrix)


def onnx_runtimes_int4(matrix: Float) -> Float:
    """The matrix after ONNX Runtime's quantizer with the same storage: blocks of 32 and no zero points."""
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = onnx.numpy_helper.from_array(np.ascontiguousarray(matrix.T), "w")
    quantizer = MatMulNBitsQuantizer(one_node(node, matrix.shape, [weight]), block_size=BLOCK, is_symmetric=True)
    quantizer.process()
    return times_identity(quantizer.model.model, matrix.shape[1])


@pytest.mark.parametrize("form", PRECISIONS)
@pytest.mark.parametrize("columns", [1, 32, 40])
def test_zeros_stay_zeros(form: str, columns: int) -> None:
    matrix = np.vstack([np.zeros((1, columns), np.float32), gaussian(1, columns), -np.zeros((1, columns), np.float32)])
    assert (decoded(form, matrix)[[0, 2]] == 0).all()
    assert (decoded(form, matrix)[1] != 0).any()


def test_a_block_of_zeros_among_others_stays_zeros_in_int4() -> None:
    matrix = gaussian(4, 96)
    matrix[:, 32:64] = 0
    levels, scale = int4_parts(matrix)
    assert (decoded("int4", matrix)[:, 32:64] == 0).all()
    assert (levels[:, 1] == 0x88).all()
    assert (scale[:, 1] == 0).all()
    for block in (0, 2):
        columns = slice(BLOCK * block, BLOCK * block + BLOCK)
        np.testing.assert_array_equal(decoded("int4", matrix)[:, columns], decoded("int4", matrix[:, columns]))


@pytest.mark.parametrize(("form", "error"), [("fp32", 0), ("fp16", 2**-11), ("int8", 1e-6), ("int4", 2**-11)])
@pytest.mark.parametrize("columns", [5, 32, 40])
@unhurried
@given(value=finite(6e4).filter(lambda value: abs(value) > 0.01))
def test_a_row_of_one_value_keeps_it(form: str, error: float, columns: int, value: float) -> None:
    matrix = np.full((2, columns), value, np.float32)
    np.testing.assert_allclose(decoded(form, matrix), matrix, rtol=error)


@pytest.mark.parametrize("huge", [5e4, -5e4])
def test_one_huge_value_is_kept_and_costs_its_row_or_block_alone(huge: float) -> None:
    usual = gaussian(3, 96)
    matrix = usual.copy()
    matrix[1, 40] = huge
    for form, others in {"int8": np.s_[[0, 2]], "int4": np.s_[:, [*range(32), *range(64, 96)]]}.items():
        assert decoded(form, matrix)[1, 40] == pytest.approx(huge, rel=1e-3)
        np.testing.assert_array_equal(decoded(form, matrix)[others], decoded(form, usual)[others])
        assert np.isfinite(decoded(form, matrix)).all()


def test_int4_stores_the_earlier_of_two_columns_in_the_low_half_of_a_byte() -> None:
    row = np.arange(-8, 8, dtype=np.float32) / 2  # -4 is the largest magnitude: it has level 0 and gives a step of .5
    levels, scale = int4_parts(np.tile(row, 2)[None])
    assert levels.tolist() == [[[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE] * 2]]
    assert scale.tolist() == [[0.5]]
    levels, scale = int4_parts(-np.tile(row, 2)[None])
    assert levels.tolist() == [[[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE] * 2]]
    assert scale.tolist() == [[-0.5]]


def test_columns_that_fill_up_an_int4_block_are_zeros() -> None:
    parts = FORMS["int4"].encode(gaussian(7, 33))
    assert [part.shape for part in parts] == [(7, 2, 16), (7, 2)]
    assert (FORMS["int4"].decode(*parts)[:, 33:] == 0).all()


@pytest.mark.parametrize("form", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_have_the_shapes_and_types_of_what_is_encoded(form: str, shape: tuple[int, int]) -> None:
    encoded = FORMS[form].encode(gaussian(*shape))
    for part, array in zip(FORMS[form].parts(shape, transposed=True), encoded, strict=True):
        rows = part.shape[part.rows_axis]
        assert (rows, part.dtype.numpy(), part.size) == (len(array), array.dtype, array.nbytes)
        assert sorted(part.shape) == sorted(array.reshape(rows, *np.delete(part.shape, part.rows_axis)).shape)


# Numbers that are too large


@pytest.mark.parametrize("sign", [1, -1])
def test_fp16_takes_what_rounds_to_its_largest_number_and_no_more(sign: int) -> None:
    below = np.nextafter(ROUNDS_TO_INFINITY, np.float32(0))
    assert decoded("fp16", np.float32([[0, sign * below]])).tolist() == [[0, sign * LARGEST_HALF]]
    with pytest.raises(OverflowError, match=r"6\.552e\+04 is too large for 16 bits"):
        FORMS["fp16"].encode(np.float32([[0, sign * ROUNDS_TO_INFINITY]]))


@pytest.mark.parametrize("sign", [1, -1])
def test_int4_refuses_a_step_that_16_bits_cannot_hold(sign: int) -> None:
    np.testing.assert_allclose(decoded("int4", np.float32([[sign * 4e5, 0]])), [[sign * 4e5, 0]], rtol=2**-11)
    with pytest.raises(OverflowError, match="too large for 16 bits"):
        FORMS["int4"].encode(np.float32([[sign * 6e5, 0]]))


@pytest.mark.parametrize(
    ("precision", "name", "value"),
    [
        ("fp16", "model.embed_tokens.weight", 7e4),
        ("fp16", "model.layers.1.mlp.down_proj.weight", -7e4),
        ("int4", "model.layers.0.self_attn.k_proj.weight", 6e5),
    ],
)
def test_a_matrix_with_a_number_that_is_too_large_is_named(
    small_checkpoint: Path, tmp_path: Path, precision: str, name: str, value: float
) -> None:
    checkpoint = with_value(small_checkpoint, tmp_path / "checkpoint", name, value)
    with pytest.raises(ExportError, match=f"^{name} cannot be stored as {precision}: .* too large for 16 bits"):
        export(source_of(checkpoint), tmp_path / "artifact", precision, None, lambda *_: None)
    assert not (tmp_path / "artifact").exists()


def with_value(checkpoint: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a checkpoint, in float32, with one number changed."""
    folder.mkdir()
    for file in checkpoint.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = {key: tensor.float() for key, tensor in load_file(checkpoint / "model.safetensors").items()}
    tensors[name][-1, -1] = value
    save_file(tensors, folder / "model.safetensors")
    return folder


# What ONNX Runtime computes with them


def one_node(node: onnx.NodeProto, shape: tuple[int, int], weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    """A model of one node from x [tokens, columns] to y [tokens, rows]."""
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["tokens", size])
        for name, size in zip("xy", shape[::-1], strict=True)
    )
    graph = onnx.helper.make_graph([node], "one node", [x], [y], weights)
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def times_identity(model: onnx.ModelProto, columns: int) -> Float:
    """The matrix [rows, columns] that a model multiplies by."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.eye(columns, dtype=np.float32)})[0].T


@pytest.mark.parametrize("accuracy_level", [0, 4])
@pytest.mark.parametrize("make", [gaussian, heavy_tailed])
@pytest.mark.parametrize("shape", SHAPES)
def test_onnx_runtime_reads_int4_as_it_is_decoded(
    shape: tuple[int, int], make: Callable[..., Float], accuracy_level: int
) -> None:
    matrix = make(*shape)
    levels, scale = int4_parts(matrix)
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "levels", "scale"], ["y"], domain="com.microsoft",
        N=shape[0], K=shape[1], bits=4, block_size=BLOCK, accuracy_level=accuracy_level,
    )  # fmt: skip
    weights = [onnx.numpy_helper.from_array(levels, "levels"), onnx.numpy_helper.from_array(scale.ravel(), "scale")]
    found = times_identity(one_node(node, shape, weights), shape[1])
    np.testing.assert_allclose(found, decoded("int4", matrix), rtol=1e-6, atol=1e-6 * np.abs(matrix).max())


def stored_layer(matrix: Float, form: str, folder: Path, *, linear: bool = True) -> tuple[Layer, LayerRecord]:
    """A graph of one linear layer or embedding, as it is quantized, stored, opened and run."""
    ops, (rows, columns) = Ops(), matrix.shape
    if linear:
        x = graph_input("x", ir.DataType.FLOAT, ["tokens", columns])
        y = ops("MatMul", x, ops.weight("w", (columns, rows)))
    else:
        x = graph_input("x", ir.DataType.INT64, ["tokens"])
        y = ops("Gather", ops.weight("w", (rows, columns)), x)
    model = as_model(ops, [x], [graph_output("y", y, ir.DataType.FLOAT, ["tokens", rows if linear else columns])])
    plan = plan_for(model, form)
    quantize(model, plan)
    weight = Weight(matrix.shape, lambda start, stop: matrix[start:stop])
    records = store(model, {"w": weight}, plan, folder / "weights", lambda _: None)
    ir.save(model, folder / "model.onnx")
    session = open_session(folder / "model.onnx")
    return lambda x: session.run(None, {"x": x})[0], records["w"]


def rounded_to_8_bits(x: Float, block: int) -> npt.NDArray[np.float64]:
    """x [tokens, columns] with every `block` columns of a token rounded to 127 steps of either sign."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % block))).reshape(len(x), -1, block)
    step = np.abs(padded).max(axis=-1, keepdims=True).astype(np.float64) / 127
    levels = np.rint(np.divide(padded, step, out=np.zeros(padded.shape), where=step != 0))
    return (levels * step).reshape(len(x), -1)[:, : x.shape[1]]


@pytest.mark.parametrize("form", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_layer_is_the_product_of_what_is_stored(form: str, shape: tuple[int, int], tmp_path: Path) -> None:
    matrix, x = heavy_tailed(*shape), heavy_tailed(9, shape[1], seed=1)
    x[4] = 0
    layer, _ = stored_layer(matrix, form, tmp_path)
    block = {"int8": shape[1], "int4": BLOCK}.get(form)
    inputs = rounded_to_8_bits(x, block) if block else x.astype(np.float64)
    weights = decoded(form, matrix).astype(np.float64)
    size = np.abs(inputs) @ np.abs(weights.T)
    assert (np.abs(layer(x) - inputs @ weights.T) <= 1e-6 * size).all()
    for tokens in (1, 2, 5):
        assert (np.abs(layer(x[:tokens]) - inputs[:tokens] @ weights.T) <= 1e-6 * size[:tokens]).all()


@pytest.mark.parametrize(("form", "stored_as"), [*zip(PRECISIONS[:3], PRECISIONS[:3], strict=True), ("int4", "int8")])
def test_an_embedding_is_the_row_that_is_stored_in_no_less_than_8_bits(
    form: str, stored_as: str, tmp_path: Path
) -> None:
    matrix, ids = heavy_tailed(50, 33), np.array([0, 49, 7, 7])
    layer, record = stored_layer(matrix, form, tmp_path, linear=False)
    assert record.form == stored_as
    np.testing.assert_array_equal(layer(ids), decoded(stored_as, matrix)[ids])


@pytest.mark.parametrize("form", PRECISIONS)
def test_tiny_and_large_activations_are_scaled_alike(form: str, tmp_path: Path) -> None:
    layer, _ = stored_layer(gaussian(16, 64), form, tmp_path)
    x = gaussian(3, 64, seed=1)
    for power in (2.0**-60, 2.0**60):
        np.testing.assert_allclose(layer(x * np.float32(power)) / power, layer(x), rtol=1e-5, atol=1e-5)


# How they reach the file

ARCHITECTURES = ["Qwen3ForCausalLM", "Qwen2ForSequenceClassification"]


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers whose matrices have 40, 48 and 100 columns, in float32; not to be written to."""
    return make_checkpoint(
        tmp_path_factory.mktemp("small") / "checkpoint",
        layers=2, hidden=40, intermediate=100, heads=3, kv_heads=1, vocab=SMALL_VOCABULARY, dtype="float32",
    )  # fmt: skip


def stored(checkpoint: Path, precision: str, path: Path) -> tuple[dict[str, LayerRecord], ir.Model]:
    """The weights of a checkpoint stored in the file `path`, and the graph that refers to them."""
    source = source_of(checkpoint)
    model = source.build_graph()
    plan = plan_for(model, precision)
    quantize(model, plan)
    records = store(model, source.weights(), plan, path, lambda _: None)
    assert path.stat().st_size == stored_size(source.shapes, plan)
    return records, model


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_stored_bytes_depend_on_neither_threads_nor_blocks(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    usual, _ = stored(small_checkpoint, precision, tmp_path / "usual")
    for threads, numbers in itertools.product([1, 4], [1, 97, 1000, 2 << 20]):
        monkeypatch.setattr("memrerank_export.store.THREADS", threads)
        monkeypatch.setattr("memrerank_export.store.available_cpus", lambda threads=threads: threads)
        monkeypatch.setattr("memrerank_export.store.BLOCK_NUMBERS", numbers)
        records, _ = stored(small_checkpoint, precision, tmp_path / "other")
        assert (tmp_path / "other").read_bytes() == (tmp_path / "usual").read_bytes()
        assert records.keys() == usual.keys()
        for name, record in records.items():
            assert record.error == pytest.approx(usual[name].error, rel=1e-3)


@unhurried
@given(seed=st.integers(0, 2**32 - 1), columns=st.sampled_from([5, 32, 40, 96]))
def test_a_row_is_encoded_as_it_is_alone(seed: int, columns: int) -> None:
    matrix = heavy_tailed(16, columns, seed=seed)
    for form in ("int8", "int4"):
        alone = [FORMS[form].encode(matrix[i : i + 1]) for i in range(len(matrix))]
        for part, rows in zip(FORMS[form].encode(matrix), zip(*alone, strict=True), strict=True):
            assert part.tobytes() == np.concatenate(rows).tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensors_begin_at_pages_and_do_not_overlap(small_checkpoint: Path, tmp_path: Path, precision: str) -> None:
    _, model = stored(small_checkpoint, precision, tmp_path / "weights")
    tensors = [value.const_value for value in model.graph.initializers.values()]
    places = sorted((tensor.offset, tensor.length) for tensor in tensors if isinstance(tensor, ir.ExternalTensor))
    assert len(places) > 20
    assert all(offset % PAGE == 0 for offset, _ in places)
    assert all(start + size <= following for (start, size), (following, _) in itertools.pairwise(places))
    assert sum(places[-1]) == (tmp_path / "weights").stat().st_size


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_estimated_size_is_that_of_the_file_and_the_recorded_error_that_of_its_bytes(
    tmp_path: Path, architecture: str, precision: str
) -> None:
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint",
        architecture=architecture, layers=1, intermediate=100, vocab=SMALL_VOCABULARY, dtype="float32",
    )  # fmt: skip
    source = source_of(checkpoint)
    manifest = export(source, tmp_path / "artifact", precision, None, lambda *_: None)
    size = (tmp_path / "artifact" / "model.onnx.data").stat().st_size
    assert estimate(source, precision).size == manifest.files["model.onnx.data"].size == size
    read_back, original = stored_matrices(tmp_path / "artifact"), load_file(checkpoint / "model.safetensors")
    assert len(read_back) == 8
    for name, record in manifest.plan.items():
        matrix = original[name].double().numpy()
        error = np.linalg.norm(read_back[name] - matrix) / np.linalg.norm(matrix)
        assert record.error == pytest.approx(error, rel=1e-3)
        assert record.form == ("int8" if precision == "int4" and "embed" in name else precision)
        assert (error > 0) == (record.form != "fp32")


@pytest.mark.parametrize("value", [1e25, 1e-25])
def test_the_error_of_a_matrix_is_recorded_whatever_its_scale(tmp_path: Path, value: float) -> None:
    matrix = gaussian(8, 64)
    (tmp_path / "usual").mkdir()
    (tmp_path / "scaled").mkdir()
    _, usual = stored_layer(matrix, "int8", tmp_path / "usual")
    _, scaled = stored_layer(matrix * np.float32(value), "int8", tmp_path / "scaled")
    assert scaled.error == pytest.approx(usual.error, rel=1e-3)
