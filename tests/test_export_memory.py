"""How much memory an export takes at most, on a checkpoint whose embedding is far larger than everything else."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memrerank_bench.random_checkpoint import CONFIG_06B

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="the peak of memory is read from /proc/self/status, as on Linux"
)

CONFIG: dict[str, Any] = CONFIG_06B | {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
}
LARGEST = 4 * CONFIG["vocab_size"] * CONFIG["hidden_size"]
"""Bytes of the embedding in float32."""

OF_LARGEST = {"fp32": 1.0, "fp16": 0.5, "int8": 0.25, "int4": 0.25}
"""What an export may hold of the largest tensor, in parts of its size in float32: the tensor as it is stored."""

CONSTANT = 200_000_000
"""Bytes that writing may take besides: blocks of rows in four threads."""

WRITER = 120_000_000
"""Bytes that writing a random checkpoint may take: less than half the embedding in float32."""

PEAK = """
import json, re, sys
from pathlib import Path

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""

WRITE = f"""{PEAK}
from memrerank_bench.random_checkpoint import write_random_checkpoint
before = peak()
write_random_checkpoint(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
print(peak() - before)
"""

EXPORT = f"""{PEAK}
from memrerank_export import cli, export, store
from memrerank_export.estimate import estimate
store.available_cpus = lambda: 4
write, before, planned = export.write_model, [], []

def write_model(source, weights, precision, *arguments):
    before.append(peak())
    planned.append((source, precision))
    return write(source, weights, precision, *arguments)

class Stop:
    def assemble(*arguments, **options):
        written, loaded = peak(), sorted({{"torch", "transformers", "optimum"}} & set(sys.modules))
        print(json.dumps([before[0], written, estimate(*planned[0]).export_memory, loaded]))
        sys.exit()

export.write_model, export.Reranker = write_model, Stop
cli.main([*sys.argv[1:], "--no-fidelity"])
"""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, and the memory that writing it took."""

    folder: Path
    growth: int


@pytest.fixture(scope="module")
def checkpoint(tokenizer_json: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """A checkpoint of random weights with the real vocabulary; not to be written to."""
    folder = tmp_path_factory.mktemp("memory") / "checkpoint"
    growth = int(run(WRITE, folder, json.dumps(CONFIG), tokenizer_json))
    yield Checkpoint(folder, growth)
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Measured:
    """Peaks of an export's memory before it writes and when all is written, and what it was estimated to be."""

    precision: str
    before: int
    written: int
    estimated: int
    loaded: list[str]


@pytest.fixture(scope="module", params=OF_LARGEST)
def measured(
    request: pytest.FixtureRequest, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Measured:
    """An export in each precision, on four threads."""
    output = tmp_path_factory.mktemp("exported") / "artifact"
    found = json.loads(run(EXPORT, checkpoint.folder, output, "--precision", request.param))
    shutil.rmtree(output)
    return Measured(request.param, *found)


def run(code: str, *arguments: object) -> str:
    """What `code` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_random_checkpoint_is_written_in_blocks(checkpoint: Checkpoint) -> None:
    assert (checkpoint.folder / "model.safetensors").stat().st_size > LARGEST / 2
    assert checkpoint.growth < WRITER < LARGEST / 2


def test_an_export_holds_no_more_than_the_largest_tensor_as_it_is_stored(measured: Measured) -> None:
    assert measured.written - measured.before < OF_LARGEST[measured.precision] * LARGEST + CONSTANT


def test_an_export_takes_no_more_than_its_estimate(measured: Measured) -> None:
    assert LARGEST * OF_LARGEST[measured.precision] < measured.written < measured.estimated


def test_an_export_imports_no_framework(measured: Measured) -> None:
    assert measured.loaded == []
