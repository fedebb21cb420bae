"""Errors of the exporter."""

from memrerank import MemrerankError


class ExportError(MemrerankError):
    """The export cannot be done as asked."""


class CheckpointError(ExportError):
    """The checkpoint is incomplete, contradicts itself or is of a kind that is not supported."""
