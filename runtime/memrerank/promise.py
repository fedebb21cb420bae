"""Promises such as "precision >= 0.9", and thresholds that were found to keep one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memrerank.errors import InputError

Array = npt.NDArray[np.float64]

SIGNS = {"precision": ">=", "recall": ">=", "false_positive_rate": "<="}
"""What can be promised, and whether at least or at most."""

_FORM = re.compile(r"\s*(\w+)\s*(>=|<=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Promise:
    """That precision or recall is at least `value`, or the false positive rate at most."""

    name: str
    value: float

    def __str__(self) -> str:
        """As `parse_promise` reads it."""
        return f"{self.name}{SIGNS[self.name]}{self.value:g}"

    def kept_by(self, points: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Whether the confidence limit of each operating point keeps it."""
        if self.name == "false_positive_rate":
            return points["false_positive_rate_high"] <= self.value
        return points[f"{self.name}_low"] >= self.value

    def best(self, points: Mapping[str, Array]) -> float:
        """The best confidence limit of all operating points."""
        if self.name == "false_positive_rate":
            return float(points["false_positive_rate_high"].min())
        return float(points[f"{self.name}_low"].max())


class Threshold(float):
    """A probability to compare scores with, the promise it keeps, and what to expect of it."""

    promise: Promise
    precision: float
    recall: float
    false_positive_rate: float

    def __new__(
        cls, probability: float, promise: Promise, precision: float, recall: float, false_positive_rate: float
    ) -> Threshold:
        """`precision`, `recall` and `false_positive_rate` are the estimates, not the limits."""
        threshold = super().__new__(cls, probability)
        threshold.promise = promise
        threshold.precision, threshold.recall = precision, recall
        threshold.false_positive_rate = false_positive_rate
        return threshold

    def __reduce__(self) -> tuple[type[Threshold], tuple[object, ...]]:
        """For copies and pickles."""
        shares = (self.precision, self.recall, self.false_positive_rate)
        return Threshold, (float(self), self.promise, *shares)

    def __repr__(self) -> str:
        """The probability, the promise and the estimates."""
        return (
            f"Threshold({float(self):.4f}, {self.promise}: precision {self.precision:.3f}, recall {self.recall:.3f}, "
            f"false_positive_rate {self.false_positive_rate:.4f})"
        )


def make_promise(**wanted: float | None) -> Promise:
    """The one promise among `precision`, `recall` and `false_positive_rate` that is not None."""
    given = {name: value for name, value in wanted.items() if value is not None}
    if len(given) != 1:
        raise InputError(
            f"{len(given)} promises were given; exactly one of {', '.join(SIGNS)} was expected, such as precision=0.9."
        )
    name, value = given.popitem()
    if not isinstance(value, (int, float, np.floating)) or not 0 < value < 1:
        raise InputError(f"{name} is {value!r}; a number between 0 and 1 was expected.")
    return Promise(name, float(value))


def parse_promise(text: str) -> Promise:
    """A promise from a text such as "precision>=0.9"."""
    found = _FORM.fullmatch(text)
    if found and SIGNS.get(found[1]) == found[2]:
        try:
            return make_promise(**{found[1]: float(found[3])})
        except ValueError as error:
            raise InputError(f"The threshold {text!r} promises no share: {error}") from error
    forms = ", ".join(f'"{name}{sign}{0.9 if sign == ">=" else 0.05}"' for name, sign in SIGNS.items())
    raise InputError(f"The threshold is {text!r}; a probability or one of {forms} was expected.")
