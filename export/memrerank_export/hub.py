"""Where a checkpoint is: a folder on this machine, or a repository of the Hugging Face hub that is fetched to one."""

from __future__ import annotations

import re
from pathlib import Path

from memrerank_export.errors import CheckpointError
from memrerank_export.source import Origin

DESCRIPTION = ["config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "*_LogitScore/config.json"]
WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]
"""The only files that are fetched: no code, no pickled weights."""


def find_checkpoint(name: str, revision: str | None, *, with_weights: bool = True) -> Origin:
    """The checkpoint folder `name`, or the hub's repository of that name at `revision` (a branch, tag or commit).

    Without `with_weights`, only the small files are fetched. HF_HUB_OFFLINE and the cache of huggingface_hub are
    respected.
    """
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{name} is a folder, which has no revision {revision}; leave --revision out.")
        return Origin(folder, folder.resolve().name, None)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) or folder.exists():
        raise CheckpointError(
            f"{name} is neither a folder nor the id of a repository on the hub (as Qwen/Qwen3-Reranker-0.6B); give the "
            "folder of a checkpoint (config.json, *.safetensors, tokenizer.json)."
        )
    fetched = _fetch(name, revision, DESCRIPTION + (WEIGHTS if with_weights else []))
    return Origin(fetched, name, fetched.name)


def _fetch(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        offline = constants.HF_HUB_OFFLINE  # with a commit as revision, some versions ask the hub all the same
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=offline))
    except Exception as error:  # of many kinds, by the hub's library and by what it speaks HTTP with
        at = f" at revision {revision}" if revision else ""
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"There is no folder {name} here, and {name}{at} cannot be fetched from the hub: {reason} "
            "Download the checkpoint where the hub can be reached (config.json, tokenizer.json, *.safetensors), copy "
            "its folder here and give that folder."
        ) from error
