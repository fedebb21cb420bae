import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import memrerank

NAMES = {"Hit", "Memory", "MemrerankError", "Ranking", "Reranker", "Threshold"}
PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, memrerank.MemrerankError)


def test_all_lists_every_public_name_and_no_other() -> None:
    members = {name: getattr(memrerank, name) for name in dir(memrerank) if not name.startswith("_")}
    public = {name for name, value in members.items() if not isinstance(value, ModuleType)}
    assert set(memrerank.__all__) == public
    assert len(memrerank.__all__) == len(public)


def test_all_holds_the_documented_names_and_errors() -> None:
    errors = {name for name in memrerank.__all__ if is_error(getattr(memrerank, name))}
    assert set(memrerank.__all__) == NAMES | errors


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    (heavy,) = (contract["forbidden_modules"] for contract in contracts if contract["type"] == "forbidden")
    assert {"torch", "transformers", "onnx"} <= set(heavy)
    code = "import json, sys, memrerank; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert not set(heavy) & set(loaded)


def test_the_version_is_the_same_everywhere() -> None:
    assert memrerank.__version__ == PYPROJECT["project"]["version"]
