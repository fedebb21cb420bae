"""Every error that memrerank raises on purpose."""


class MemrerankError(Exception):
    """Base of all errors; the message says what was found, what was expected and what to do."""


class InstallationError(MemrerankError, ImportError):
    """ONNX Runtime is missing, or two builds of it overwrite each other."""


class ArtifactError(MemrerankError):
    """An artifact folder is missing, incomplete, changed, or not of a kind this version reads."""


class DeviceError(MemrerankError):
    """The requested device cannot run the artifact."""


class CalibrationError(MemrerankError):
    """An artifact has no calibration, or the data do not support what was asked of it."""


class InputError(MemrerankError, ValueError):
    """A query, a document or an option is not what a call accepts."""


class ScoringError(MemrerankError):
    """The model did not give a finite score."""
