"""Errors of the exporter."""

from memrerank import MemrerankError


class ExportError(MemrerankError):
    """The export cannot be done as asked."""


class CheckpointError(ExportError):
    """The checkpoint is incomplete, contradicts itself or is of a kind that is not supported."""


class TemplateError(ExportError):
    """A template file is not one, or does not go with the checkpoint's tokenizer."""
