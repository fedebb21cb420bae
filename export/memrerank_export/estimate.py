"""What an export would do, from config.json alone: forms, sizes and memory, before any work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from memrerank_export.quantize import Plan, Planned, plan_for
from memrerank_export.source import Source
from memrerank_export.store import BLOCK_NUMBERS, THREADS, stored_size

INTERPRETER = 300_000_000
"""Bytes of Python with the exporter's libraries and a tokenizer, about."""

BLOCK_COPIES = 6
"""Arrays in float32 as large as a block that encoding it takes, at most."""

LOADED = {("fp16", ""): 2, ("int4", ".scale"): 6}
"""How often a part's bytes are in memory: 16-bit weights as 32 bits, a 4-bit block's step as three float32 copies."""


@dataclass(frozen=True)
class Layers:
    """Matrices that differ in the number of their layer only: how many, of what shape, in what form."""

    name: str
    count: int
    shape: tuple[int, int]
    form: str


@dataclass(frozen=True)
class Estimate:
    """An export's numbers of parameters and bytes; memory is resident memory.

    `export_memory` is needed until the artifact is written, `load_memory` to load it, as is done for its known pair.
    """

    architecture: str
    precision: str
    template: str
    parameters: int
    layers: tuple[Layers, ...]
    size: int
    export_memory: int
    load_memory: int


def estimate(source: Source, precision: str, device: str = "cpu") -> Estimate:
    """The estimate of exporting `source` in `precision`."""
    plan = plan_for(source.graph_for(precision, device), precision, device)
    size = stored_size(source.shapes, plan)
    largest = max(part.size for planned in plan.values() for part in planned.parts)
    return Estimate(
        architecture=source.architecture,
        precision=precision,
        template=source.template_name,
        parameters=sum(prod(shape) for shape in source.shapes.values()),
        layers=tuple(_layers(plan)),
        size=size,
        export_memory=INTERPRETER + largest + 4 * BLOCK_NUMBERS * BLOCK_COPIES * THREADS,
        load_memory=INTERPRETER + size + sum(_growth(planned) for planned in plan.values()),
    )


def _growth(planned: Planned) -> int:
    """Bytes that a matrix takes in memory beyond those on disk."""
    return sum(part.size * (LOADED.get((planned.form_name, part.suffix), 1) - 1) for part in planned.parts)


def _layers(plan: Plan) -> Iterator[Layers]:
    alike: dict[tuple[str, tuple[int, int], str], int] = {}
    for name, planned in plan.items():
        key = (re.sub(r"\.\d+\.", ".*.", name), planned.shape, planned.form_name)
        alike[key] = alike.get(key, 0) + 1
    for (name, shape, form), count in alike.items():
        yield Layers(name, count, shape, form)
