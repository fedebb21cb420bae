import os
import shutil
from pathlib import Path

import pytest
import torch

from checkpoints import SMALL_VOCABULARY, make_checkpoint, tokenizer_json_bytes
from memrerank import DeviceError
from memrerank.cuda import require_cuda
from memrerank_export.export import export
from memrerank_export.fidelity import built_in_pairs
from memrerank_export.hub import find_checkpoint
from memrerank_export.source import Source, read_source


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Tiny models gain nothing from more, and threads that wait for each other are slow on shared CPUs."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Qwen3 tokenizer.json."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(tokenizer_json_bytes())
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of the default shape; not to be written to."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def int8_artifact(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint` as an int8 artifact; not to be written to."""
    return exported(tiny_checkpoint, tmp_path_factory.mktemp("int8") / "artifact", "int8")


@pytest.fixture(scope="session")
def fp32_artifact(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint` as an fp32 artifact; not to be written to."""
    return exported(tiny_checkpoint, tmp_path_factory.mktemp("fp32") / "artifact", "fp32")


@pytest.fixture(scope="session")
def int4_artifact(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint` as an int4 artifact; not to be written to."""
    return exported(tiny_checkpoint, tmp_path_factory.mktemp("int4") / "artifact", "int4")


@pytest.fixture
def artifact(int8_artifact: Path, tmp_path: Path) -> Path:
    """A copy of the int8 artifact to spoil. Its files are hard links: replace them, never write into them."""
    return Path(shutil.copytree(int8_artifact, tmp_path / "artifact", copy_function=os.link))


@pytest.fixture(scope="session")
def cuda_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint as an fp16 artifact for GPUs; not to be written to."""
    folder = tmp_path_factory.mktemp("cuda")
    checkpoint = make_checkpoint(folder / "checkpoint", vocab=SMALL_VOCABULARY)
    return exported(checkpoint, folder / "artifact", "fp16", device="cuda")


@pytest.fixture
def gpu() -> None:
    """Skips the test, with the reason, where ONNX Runtime cannot use a GPU."""
    try:
        require_cuda()
    except DeviceError as error:
        pytest.skip(f"no GPU: {error}")


def exported(checkpoint: Path, output: Path, precision: str, device: str = "cpu") -> Path:
    """The artifact of `checkpoint`, with a fidelity measured on a few pairs."""
    pairs = built_in_pairs()[:4]
    export(source_of(checkpoint), output, precision, pairs, lambda stage, done, total: None, device=device)
    return output


def source_of(checkpoint: Path) -> Source:
    """The checkpoint in a folder, with the template of its architecture."""
    return read_source(find_checkpoint(str(checkpoint), None), None, None)
