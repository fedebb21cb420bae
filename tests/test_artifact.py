import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import memrerank
from memrerank import ArtifactError, DeviceError, InstallationError, Reranker
from memrerank.artifact import open_artifact
from memrerank.installation import require_one_onnxruntime
from memrerank.manifest import compute_model_id, read_manifest
from memrerank.onnx_header import imported_domains
from memrerank.session import integer_matmul_saturates, open_session, session_options
from memrerank.threads import available_cpus, cgroup_limits

FILES = ("model.onnx", "model.onnx.data", "tokenizer.json")
Change = Callable[[dict[str, Any]], Any]


def put(path: Path, content: bytes) -> None:
    """Replace a file of an artifact, whose files are hard links."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def edit(artifact: Path, change: Change, *, seal: bool = True) -> None:
    """Change the manifest; `seal` gives it the model id of its new contents."""
    content = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    change(content)
    if seal:
        content["model_id"] = model_id(content)
    put(artifact / "manifest.json", json.dumps(content).encode())


def model_id(content: dict[str, Any]) -> str:
    """The digest of files and template, as JSON without spaces and with sorted keys."""
    digests = {name: record["sha256"] for name, record in content["files"].items()}
    sealed = {"files": digests, "template": content["template"]}
    return "sha256:" + hashlib.sha256(json.dumps(sealed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def record(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def put_recorded(artifact: Path, name: str, content: bytes) -> None:
    """Replace a file and its record in the manifest: an artifact that was made so."""
    put(artifact / name, content)
    edit(artifact, lambda manifest: manifest["files"].update({name: record(content)}))


def load_quickly(artifact: Path) -> Reranker:
    return Reranker.load(artifact, verify=False, probe=False)


# What is not an artifact


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ArtifactError, match=f"{path} is not a folder.*memrerank-export"):
            Reranker.load(path)
    with pytest.raises(ArtifactError, match=r"has no manifest\.json.*memrerank-export"):
        Reranker.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"format_version": 1', b"\xff\xfe", b"{'a': 1}"])
def test_a_manifest_that_is_no_json_is_refused(artifact: Path, content: bytes) -> None:
    put(artifact / "manifest.json", content)
    with pytest.raises(ArtifactError, match=r"manifest\.json is not valid JSON"):
        Reranker.load(artifact)


@pytest.mark.parametrize("version", [None, 0, 2, "1", [1]])
def test_another_format_version_is_refused(artifact: Path, version: Any) -> None:
    edit(artifact, lambda manifest: manifest.update(format_version=version))
    with pytest.raises(ArtifactError, match=r"format version .*reads version 1") as caught:
        Reranker.load(artifact)
    assert repr(version) in str(caught.value)


@pytest.mark.parametrize("content", [b"[]", b"null", b'"text"', b"{}"])
def test_a_manifest_without_a_version_is_refused(artifact: Path, content: bytes) -> None:
    put(artifact / "manifest.json", content)
    with pytest.raises(ArtifactError, match="format version None"):
        Reranker.load(artifact)


KEYS = (
    "model_id", "family", "architecture", "device", "precision", "plan", "template", "limits", "probe", "files",
    "calibration", "fidelity", "source",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_manifest_that_lacks_a_key_is_refused(artifact: Path, key: str) -> None:
    edit(artifact, lambda manifest: manifest.pop(key), seal=False)
    with pytest.raises(ArtifactError, match=rf"manifest\.json .*{key}"):
        open_artifact(artifact, verify=False)


@pytest.mark.parametrize("value", [5, [None]])
@pytest.mark.parametrize("key", KEYS)
def test_a_manifest_with_a_value_of_the_wrong_kind_is_refused(artifact: Path, key: str, value: Any) -> None:
    edit(artifact, lambda manifest: manifest.update({key: value}), seal=False)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        open_artifact(artifact, verify=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["probe"].update(logit="much"),
        lambda manifest: manifest["limits"].update(max_tokens="many"),
        lambda manifest: manifest["template"].update(head=[1.5]),
        lambda manifest: manifest["template"].update(document=[]),
        lambda manifest: manifest["template"]["rendering"].update(colour="red"),
        lambda manifest: manifest["template"]["rendering"].pop("turn"),
        lambda manifest: manifest["files"]["model.onnx"].update(size="big"),
        lambda manifest: next(iter(manifest["plan"].values())).update(error=None),
    ],
    ids=["logit", "limit", "special id", "no document", "more rendering", "less rendering", "size", "error"],
)
def test_a_manifest_with_a_wrong_value_inside_is_refused(artifact: Path, change: Change) -> None:
    edit(artifact, change)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        open_artifact(artifact, verify=False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"family": "listwise"}, ArtifactError, "family 'listwise'.*'decoder' and 'encoder'"),
        ({"family": "encoder"}, ArtifactError, "reads input_ids, past_key.*for an encoder"),
        ({"device": "tpu"}, DeviceError, "built for tpu.*cpu or cuda"),
        ({"calibration": {"x": [0], "y": [1]}}, ArtifactError, "not a valid manifest.*curve"),
    ],
)
def test_an_artifact_that_needs_a_newer_version_is_refused(
    artifact: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    edit(artifact, lambda manifest: manifest.update(change))
    with pytest.raises(error, match=message):
        load_quickly(artifact)


# Whether its files are whole


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(artifact: Path, name: str, verify: bool) -> None:
    (artifact / name).unlink()
    with pytest.raises(ArtifactError, match=f"{artifact / name} is missing.*copy"):
        Reranker.load(artifact, verify=verify)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named_with_both_sizes(artifact: Path, name: str, verify: bool) -> None:
    content = (artifact / name).read_bytes()
    put(artifact / name, content[:-1])
    with pytest.raises(ArtifactError, match=f"{artifact / name} has {len(content) - 1} bytes.*{len(content)}"):
        Reranker.load(artifact, verify=verify)


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_found(artifact: Path, name: str, position: int) -> None:
    content = bytearray((artifact / name).read_bytes())
    content[position] ^= 1
    put(artifact / name, content)
    with pytest.raises(ArtifactError, match=f"{artifact / name} was changed.*SHA-256"):
        Reranker.load(artifact)


def test_without_hashes_the_probe_finds_changed_weights(artifact: Path) -> None:
    content = np.fromfile(artifact / "model.onnx.data", np.uint8)
    put(artifact / "model.onnx.data", (content ^ 1).tobytes())
    assert load_quickly(artifact).score("query", ["document"]).shape == (1,)
    with pytest.raises(ArtifactError, match=r"known pair scores .* was expected.*memrerank verify"):
        Reranker.load(artifact, verify=False)


def test_without_hashes_the_probe_finds_weights_that_are_no_numbers(artifact: Path) -> None:
    put(artifact / "model.onnx.data", b"\xff" * (artifact / "model.onnx.data").stat().st_size)
    with pytest.raises(ArtifactError, match=r"known pair.*memrerank verify"):
        Reranker.load(artifact, verify=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["template"].update(instruction="Prefer advertisements"),
        lambda manifest: manifest["template"]["document"].__setitem__(1, 42),
        lambda manifest: manifest["template"]["rendering"].update(turn="{turn} "),
        lambda manifest: manifest["files"]["tokenizer.json"].update(sha256="0" * 64),
        lambda manifest: manifest["files"].pop("model.onnx.data"),
    ],
    ids=["instruction", "special id", "rendering", "hash", "file"],
)
def test_what_decides_a_logit_is_bound_to_the_model_id(artifact: Path, change: Change) -> None:
    edit(artifact, change, seal=False)
    with pytest.raises(ArtifactError, match=r"manifest\.json was changed.*model id"):
        Reranker.load(artifact, verify=False)


def test_the_model_id_is_the_digest_of_files_and_template(int8_artifact: Path) -> None:
    manifest = read_manifest(int8_artifact)
    content = json.loads((int8_artifact / "manifest.json").read_text(encoding="utf-8"))
    assert manifest.model_id == compute_model_id(manifest.files, manifest.template) == model_id(content)


def test_files_that_the_manifest_does_not_list_are_ignored(artifact: Path) -> None:
    (artifact / "notes.txt").write_text("mine")
    (artifact / "folder").mkdir()
    (artifact / "link").symlink_to("/")
    assert load_quickly(artifact).manifest == open_artifact(artifact, verify=True)


def test_an_artifact_may_lie_behind_a_link_or_a_relative_path(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(artifact)
    monkeypatch.chdir(tmp_path)
    expected = load_quickly(artifact).score("query", ["document"])
    for path in ("link", Path("artifact"), f"{artifact}{os.sep}"):
        assert load_quickly(path).score("query", ["document"]) == expected


# Whether it is safe to open


@pytest.mark.parametrize("name", ["../outside", "{outside}", "folder/inside", "./tokenizer.json", "..", ".", ""])
def test_a_manifest_that_names_a_path_is_refused(artifact: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    name = name.format(outside=outside)
    (artifact / "folder").mkdir()
    for path in (outside, artifact / "folder" / "inside"):
        path.write_bytes(b"content")
    content = (artifact / name).read_bytes() if (artifact / name).is_file() else b""
    edit(artifact, lambda manifest: manifest["files"].update({name: record(content)}))
    with pytest.raises(ArtifactError, match="not a plain file name") as caught:
        Reranker.load(artifact)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_link_that_leaves_the_folder_is_refused(artifact: Path, tmp_path: Path, name: str) -> None:
    (artifact / name).rename(tmp_path / name)
    (artifact / name).symlink_to(tmp_path / name)
    with pytest.raises(ArtifactError, match=f"{artifact / name} is a link that leaves"):
        Reranker.load(artifact)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_manifest_must_list_graph_and_tokenizer(artifact: Path, name: str) -> None:
    edit(artifact, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(ArtifactError, match=f"lists no {name}"):
        Reranker.load(artifact)


@pytest.mark.parametrize("location", ["unlisted.data", "../outside.data", "{absolute}"])
def test_a_graph_whose_weights_are_in_no_listed_file_is_refused(artifact: Path, tmp_path: Path, location: str) -> None:
    weights = (artifact / "model.onnx.data").read_bytes()
    for path in (artifact / "unlisted.data", tmp_path / "outside.data"):
        path.write_bytes(weights)
    model = onnx.load(artifact / "model.onnx", load_external_data=False)
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    for entry in entries:
        if entry.key == "location":
            entry.value = location.format(absolute=tmp_path / "outside.data")
    put_recorded(artifact, "model.onnx", model.SerializeToString())
    with pytest.raises(ArtifactError):
        Reranker.load(artifact)


def test_operators_of_a_foreign_domain_are_refused(artifact: Path) -> None:
    model = onnx.load(artifact / "model.onnx", load_external_data=False)
    model.opset_import.append(helper.make_opsetid("org.example.custom", 1))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    put_recorded(artifact, "model.onnx", model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"operators of ai\.onnx\.ml, org\.example\.custom; only"):
        Reranker.load(artifact)


@pytest.mark.parametrize("content", [b"\x0f", b"not a model", b"\x42\xff"])
def test_a_graph_that_is_no_onnx_model_is_refused(artifact: Path, content: bytes) -> None:
    put_recorded(artifact, "model.onnx", content)
    with pytest.raises(ArtifactError, match=r"model\.onnx is not an ONNX model"):
        Reranker.load(artifact)


def test_a_graph_that_onnx_runtime_cannot_open_is_refused(artifact: Path) -> None:
    put_recorded(artifact, "model.onnx", onnx.ModelProto(ir_version=11).SerializeToString())
    with pytest.raises(ArtifactError, match=rf"ONNX Runtime {ort.__version__} cannot open .*model\.onnx"):
        Reranker.load(artifact)


def test_a_graph_of_another_kind_is_refused(artifact: Path) -> None:
    put_recorded(artifact, "model.onnx", product(4, 8, 2).SerializeToString())
    with pytest.raises(ArtifactError):
        Reranker.load(artifact)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": {"type": "BPE"}}', b"\xff"])
def test_a_tokenizer_that_cannot_be_read_is_refused(artifact: Path, content: bytes) -> None:
    put_recorded(artifact, "tokenizer.json", content)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is not a tokenizer"):
        Reranker.load(artifact)


def test_a_tokenizer_that_knows_special_tokens_is_refused(artifact: Path, tokenizer_json: Path) -> None:
    put_recorded(artifact, "tokenizer.json", tokenizer_json.read_bytes())
    with pytest.raises(ArtifactError, match=r"tokenizer\.json has added tokens"):
        Reranker.load(artifact)


# Reading an ONNX file's header


def product(rows: int, inner: int, columns: int, seed: int = 0) -> onnx.ModelProto:
    """A model of y = x W for uint8 x [rows, inner] and a constant int8 W whose rows are large."""
    weight = np.random.default_rng(seed).choice(np.array([-127, 127, 126, 3], np.int8), (inner, columns))
    return product_model(rows, weight)


def product_model(rows: int, weight: np.ndarray) -> onnx.ModelProto:
    node = helper.make_node("MatMulIntegerToFloat", ["x", "weight", "one", "one"], ["y"], domain="com.microsoft")
    graph = helper.make_graph(
        [node],
        "saturation",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, weight.shape[1]])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11, producer_name="memrerank")


def models() -> Iterator[Any]:
    plain = product(2, 3, 4)
    yield pytest.param(plain, id="two domains")
    for name, domains in {
        "none": [],
        "standard, spelled out": ["ai.onnx"],
        "not ASCII": ["dömäne", ""],
        "many": ["", *(f"domain.{i}" * i for i in range(1, 60))],
        "repeated": ["", "com.microsoft", "com.microsoft"],
    }.items():
        model = onnx.ModelProto()
        model.CopyFrom(plain)
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in domains)
        yield pytest.param(model, id=name)
    rich = onnx.ModelProto()
    rich.CopyFrom(plain)
    rich.doc_string, rich.model_version, rich.domain = "x" * 70_000, -5, "org.example.model"
    helper.set_model_props(rich, {"key": "value"})
    body = [helper.make_node("Relu", ["a"], ["b"])]
    rich.functions.append(helper.make_function("local", "f", ["a"], ["b"], body, [helper.make_opsetid("", 23)]))
    rich.training_info.add()
    yield pytest.param(rich, id="every field")


@pytest.mark.parametrize("model", list(models()))
def test_imported_domains_are_those_that_the_onnx_package_reads(model: onnx.ModelProto) -> None:
    assert imported_domains(model.SerializeToString()) == {opset.domain for opset in model.opset_import}


def test_imported_domains_of_an_artifact_are_the_two_that_are_run(int8_artifact: Path, fp32_artifact: Path) -> None:
    for folder in (int8_artifact, fp32_artifact):
        assert sorted(imported_domains((folder / "model.onnx").read_bytes())) == ["", "com.microsoft"]


def test_a_model_cut_anywhere_is_read_as_the_onnx_package_reads_it() -> None:
    content = product(2, 3, 4).SerializeToString()
    for end in range(len(content)):
        try:
            expected = {opset.domain for opset in onnx.ModelProto.FromString(content[:end]).opset_import}
        except DecodeError:
            with pytest.raises(ValueError, match=r"field|number"):
                imported_domains(content[:end])
        else:
            assert imported_domains(content[:end]) == expected


@given(st.binary(max_size=60))
def test_bytes_that_are_no_model_raise_nothing_but_value_errors(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all(isinstance(domain, str) for domain in imported_domains(content))


# CPUs and threads


def version_2(root: Path, limits: dict[str, str]) -> None:
    for group, text in limits.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        (root / group / "cpu.max").write_text(text + "\n")


def version_1(root: Path, limits: dict[str, tuple[int, int]]) -> None:
    for group, (quota, period) in limits.items():
        folder = root / "cpu" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def limits_of(tmp_path: Path, membership: str) -> list[float]:
    (tmp_path / "membership").write_text(membership)
    return list(cgroup_limits(tmp_path, tmp_path / "membership"))


@pytest.mark.parametrize(
    ("limits", "membership", "expected"),
    [
        ({"a/b": "150000 100000"}, "0::/a/b\n", [1.5]),
        ({"a/b": "max 100000", "a": "50000 100000"}, "0::/a/b\n", [0.5]),
        ({"a/b": "300000 100000", "a": "200000 50000", "": "max 100000"}, "0::/a/b\n", [3.0, 4.0]),
        ({"": "200000 100000"}, "0::/\n", [2.0]),
        ({"": "200000 100000"}, "0::/not/seen/from/here\n", [2.0]),
        ({"": "200000 100000"}, "0::/../sibling\n", [2.0]),
        ({"other": "100000 100000"}, "0::/a\n", []),
        ({"a": "max"}, "0::/a\n", []),
        ({"a": ""}, "0::/a\n", []),
        ({"a:b": "100000 100000"}, "0::/a:b\n", [1.0]),
    ],
)
def test_limits_of_control_groups_version_2(
    tmp_path: Path, limits: dict[str, str], membership: str, expected: list[float]
) -> None:
    version_2(tmp_path, limits)
    assert limits_of(tmp_path, membership) == expected


@pytest.mark.parametrize(
    ("limits", "membership", "expected"),
    [
        ({"docker/abc": (250_000, 100_000)}, "3:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n", [2.5]),
        ({"docker/abc": (-1, 100_000), "docker": (50_000, 100_000)}, "3:cpuacct,cpu:/docker/abc\n", [0.5]),
        ({"": (150_000, 100_000)}, "4:cpu:/docker/abc\n", [1.5]),
        ({"a": (150_000, 100_000)}, "4:cpuset:/a\n3:cpuacct:/a\n", []),
    ],
)
def test_limits_of_control_groups_version_1(
    tmp_path: Path, limits: dict[str, tuple[int, int]], membership: str, expected: list[float]
) -> None:
    version_1(tmp_path, limits)
    assert limits_of(tmp_path, membership) == expected


def test_limits_of_both_versions_together(tmp_path: Path) -> None:
    version_2(tmp_path, {"a": "300000 100000"})
    version_1(tmp_path, {"a": (100_000, 100_000)})
    assert sorted(limits_of(tmp_path, "4:cpu:/a\n0::/a\n")) == [1.0, 3.0]


def test_no_limits_where_there_are_no_control_groups(tmp_path: Path) -> None:
    assert list(cgroup_limits(tmp_path, tmp_path / "missing")) == []


@pytest.mark.parametrize(
    ("allowed", "limits", "expected"),
    [(8, [], 8), (8, [2.7], 2), (8, [6.0, 3.0], 3), (8, [0.5], 1), (2, [4.0], 2), (1, [], 1)],
)
def test_available_cpus_are_the_smallest_limit(
    monkeypatch: pytest.MonkeyPatch, allowed: int, limits: list[float], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)), raising=False)
    monkeypatch.setattr("memrerank.threads.cgroup_limits", lambda *arguments: iter(limits))
    assert available_cpus() == expected


# Integer arithmetic


def test_saturation_onnx_is_the_model_that_the_session_module_describes() -> None:
    stored = onnx.ModelProto.FromString(files("memrerank").joinpath("saturation.onnx").read_bytes())
    assert stored == product_model(4, np.full((32, 16), 127, np.int8))


def test_integer_matmul_saturates_where_its_product_is_wrong() -> None:
    model = product_model(4, np.full((32, 16), 127, np.int8))
    session = ort.InferenceSession(model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.full((4, 32), 255, np.uint8)})[0]
    saturates = integer_matmul_saturates()
    assert isinstance(saturates, bool)
    assert saturates == (not (found == 255 * 127 * 32).all())


def test_a_cpu_with_integer_dot_products_does_not_saturate() -> None:
    cpu = Path("/proc/cpuinfo")
    if not cpu.is_file() or not {"avx512_vnni", "avx_vnni", "asimddp"} & set(cpu.read_text().split()):
        pytest.skip("this CPU has no VNNI or dot product instructions, or does not say so")
    assert integer_matmul_saturates() is False


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 64, 16), (4, 32, 16), (7, 257, 33), (64, 128, 96)])
def test_integer_products_are_exact_on_this_cpu(tmp_path: Path, rows: int, inner: int, columns: int) -> None:
    model = product(rows, inner, columns)
    onnx.save(model, tmp_path / "product.onnx")
    x = np.random.default_rng(1).choice(np.array([0, 1, 128, 254, 255], np.uint8), (rows, inner))
    weight = numpy_helper.to_array(model.graph.initializer[0])
    found = open_session(tmp_path / "product.onnx").run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, x.astype(np.int64) @ weight.astype(np.int64))


# Installation


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make Python find the metadata of these builds of ONNX Runtime and of no other."""
    real = Distribution.from_name

    def from_name(name: str) -> Distribution:
        if name.startswith("onnxruntime") and name not in packages:
            raise PackageNotFoundError(name)
        return real("onnxruntime" if name in packages else name)

    monkeypatch.setattr(Distribution, "from_name", from_name)


@pytest.mark.parametrize("packages", [(), ("onnxruntime", "onnxruntime-gpu")], ids=["neither", "both"])
def test_not_exactly_one_onnxruntime_is_an_import_error_that_names_both_extras(
    monkeypatch: pytest.MonkeyPatch, packages: tuple[str, ...]
) -> None:
    pretend_installed(monkeypatch, *packages)
    if not packages:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"memrerank\[cpu\].*memrerank\[gpu\]") as caught:
        require_one_onnxruntime()
    assert isinstance(caught.value, InstallationError)
    assert isinstance(caught.value, memrerank.MemrerankError)
    assert "onnxruntime-gpu" in str(caught.value)


@pytest.mark.parametrize("packages", [("onnxruntime",), ("onnxruntime-gpu",), ()], ids=["cpu", "gpu", "own build"])
def test_one_onnxruntime_is_enough(monkeypatch: pytest.MonkeyPatch, packages: tuple[str, ...]) -> None:
    pretend_installed(monkeypatch, *packages)
    require_one_onnxruntime()


def test_importing_memrerank_without_onnxruntime_says_what_to_install() -> None:
    code = (
        "import importlib.metadata as metadata, sys\n"
        "def missing(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.Distribution.from_name = missing\n"
        "sys.modules['onnxruntime'] = None\n"
        "try: import memrerank\n"
        "except ImportError as error: print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert 'pip install "memrerank[cpu]"' in answer.stdout
    assert 'pip install "memrerank[gpu]"' in answer.stdout
