from pathlib import Path

import pytest

from checkpoints import make_checkpoint, tokenizer_json_bytes


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
