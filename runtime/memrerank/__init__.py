"""memrerank: reranks an agent's memories inside the agent's process."""

from memrerank.errors import (
    ArtifactError,
    CalibrationError,
    DeviceError,
    InputError,
    InstallationError,
    MemrerankError,
    ScoringError,
)
from memrerank.installation import require_one_onnxruntime as _require_one_onnxruntime

_require_one_onnxruntime()

from memrerank.memory import Memory  # noqa: E402
from memrerank.promise import Threshold  # noqa: E402
from memrerank.ranking import Hit, Ranking  # noqa: E402
from memrerank.reranker import Reranker  # noqa: E402

__all__ = [
    "ArtifactError",
    "CalibrationError",
    "DeviceError",
    "Hit",
    "InputError",
    "InstallationError",
    "Memory",
    "MemrerankError",
    "Ranking",
    "Reranker",
    "ScoringError",
    "Threshold",
]
__version__ = "0.1.0"
