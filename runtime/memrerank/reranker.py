"""The scorer that an agent holds: loads an artifact once, then ranks documents for queries."""

from __future__ import annotations

import asyncio
import os
import time as clock
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from memrerank.artifact import open_artifact
from memrerank.calibration import Calibration
from memrerank.device import choose_device
from memrerank.errors import ArtifactError, CalibrationError, InputError, MemrerankError, ScoringError
from memrerank.manifest import GRAPH, TOKENIZER, Manifest, Probe
from memrerank.memory import Document, Memory, Time, as_memory
from memrerank.promise import Threshold, make_promise, parse_promise
from memrerank.prompt import EncodedPrompt, PromptEncoder
from memrerank.ranking import Hit, Ranking
from memrerank.scorer import Scorer, open_scorer
from memrerank.threads import available_cpus
from memrerank.tokenization import load_plain_tokenizer

DocumentT = TypeVar("DocumentT", bound=Document)
Float = npt.NDArray[np.float32]


class Reranker:
    """Scores how well documents answer a query. Made by `Reranker.load`; safe to call from several threads."""

    def __init__(
        self, path: Path, manifest: Manifest, device: str, threads: int, encoder: PromptEncoder, scorer: Scorer
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.device = device
        self._threads = threads
        self._encoder = encoder
        self._scorer = scorer
        self._process = os.getpid()
        self._warned = False

    @classmethod
    def load(
        cls,
        artifact: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        verify: bool = True,
        probe: bool = True,
    ) -> Reranker:
        """Load the artifact in a folder; without one, the embedded model.

        `threads` defaults to the CPUs this process may use. `verify` compares every file with its hash; `probe`
        scores a known pair and compares its logit. Raises ArtifactError or DeviceError when anything is not right.
        """
        path = artifact_folder("default" if artifact is None else artifact)
        try:
            manifest = open_artifact(path, verify=verify)
            reranker = cls.assemble(path, manifest, choose_device(device, manifest.device), threads)
        except OSError as error:
            raise ArtifactError(f"The artifact in {path} cannot be read: {error}.") from error
        if probe:
            reranker._check_probe(manifest.probe)
        return reranker

    @classmethod
    def assemble(
        cls, path: Path, manifest: Manifest, device: str, threads: int | None = None, *, weights_in_file: bool = False
    ) -> Reranker:
        """Load the files in `path` as `manifest` describes them, without checking them.

        `weights_in_file` leaves float weights in their file: slow, but of any size.
        """
        if threads is not None and (not isinstance(threads, Integral) or threads < 1):
            raise InputError(f"threads is {threads!r}; a positive whole number was expected.")
        tokenizer = load_plain_tokenizer(path / TOKENIZER, manifest.template.special_ids)
        encoder = PromptEncoder(manifest.template, tokenizer, manifest.limits.max_tokens)
        scorer = open_scorer(manifest, path / GRAPH, device, weights_in_file=weights_in_file)
        return cls(path, manifest, device, int(threads or available_cpus()), encoder, scorer)

    def rerank(
        self,
        query: str,
        documents: Iterable[DocumentT],
        *,
        context: Iterable[Document] | None = None,
        time: Time | None = None,
        instruction: str | None = None,
        top_k: int | None = None,
        threshold: float | str | None = None,
        base_rate: float | None = None,
        deadline_ms: float | None = None,
    ) -> Ranking[DocumentT]:
        """Rank `documents` by how well they answer `query`, best first.

        `context` holds earlier dialogue turns and `time` is when the question is asked. `top_k` keeps the best hits,
        `threshold` those with at least that score, or those that a promise such as "precision>=0.9" keeps.
        `base_rate` is the share of relevant documents among those that you score, where it is not that of the
        calibration. Once `deadline_ms` milliseconds have passed, no further document is begun. Raises InputError for
        what cannot be ranked and ScoringError rather than return a made-up score.
        """
        _check_options(top_k, deadline_ms)
        least = self._least_score(threshold, base_rate)
        end = None if deadline_ms is None else clock.monotonic() + deadline_ms / 1000
        listed = _as_list(documents, "documents")
        encoded = self._encode(query, listed, context, time, instruction)
        logits = self._logits(encoded, end)
        order = sorted(logits, key=lambda i: (-logits[i], i))
        hits = self._hits(order, [logits[i] for i in order], listed, base_rate)
        return Ranking(
            [hit for hit in hits if hit.score >= least][:top_k],
            unscored=[i for i in range(len(listed)) if i not in logits],
            truncated=[i for i, document in enumerate(encoded.documents) if document.truncated],
        )

    async def arerank(self, query: str, documents: Iterable[DocumentT], **options: Any) -> Ranking[DocumentT]:
        """`rerank` in a worker thread, so that the event loop goes on."""
        return await asyncio.to_thread(lambda: self.rerank(query, documents, **options))

    def score(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        context: Iterable[Document] | None = None,
        time: Time | None = None,
        instruction: str | None = None,
        base_rate: float | None = None,
        raw: bool = False,
    ) -> Float:
        """The score of every document in input order, float32 [documents]: probabilities, or logits with `raw`."""
        encoded = self._encode(query, _as_list(documents, "documents"), context, time, instruction)
        by_position = self._logits(encoded, end=None)
        logits = np.array([by_position[i] for i in range(len(by_position))], np.float32)
        return logits if raw else self._probabilities(logits, base_rate)

    def threshold(
        self,
        *,
        precision: float | None = None,
        recall: float | None = None,
        false_positive_rate: float | None = None,
        base_rate: float | None = None,
    ) -> Threshold:
        """The score to ask for so that `precision`, `recall` or `false_positive_rate` is kept on data like those of
        the calibration: the loosest whose confidence limit keeps it (for a recall, the strictest).

        Raises CalibrationError if the artifact is not calibrated or its data cannot support the promise.
        """
        promise = make_promise(precision=precision, recall=recall, false_positive_rate=false_positive_rate)
        return self._calibration(f"Promising {promise}").threshold(promise, base_rate)

    def encode(
        self,
        query: str,
        document: Document,
        *,
        context: Iterable[Document] | None = None,
        time: Time | None = None,
        instruction: str | None = None,
    ) -> list[int]:
        """The token ids of the whole prompt for one pair, cut to fit as in scoring."""
        encoded = self._encode(query, [document], context, time, instruction)
        return encoded.head + encoded.query + encoded.documents[0].ids

    def _encode(
        self,
        query: str,
        documents: Sequence[Document],
        context: Iterable[Document] | None,
        time: Time | None,
        instruction: str | None,
    ) -> EncodedPrompt:
        for name, value in (("query", query), ("instruction", "" if instruction is None else instruction)):
            if not isinstance(value, str):
                raise InputError(f"The {name} is of type {type(value).__name__}; a text was expected.")
        question = as_memory(Memory(query, time), "the query")
        before = [] if context is None else _as_list(context, "context")
        turns = [as_memory(turn, f"context turn {i}") for i, turn in enumerate(before)]
        memories = [as_memory(document, f"document {i}") for i, document in enumerate(documents)]
        return self._encoder.encode(question, memories, turns, instruction)

    def _logits(self, encoded: EncodedPrompt, end: float | None) -> dict[int, float]:
        """The logit of each document by its position; without those not begun before `end` on the monotonic clock."""
        self._check_process()

        def over() -> bool:
            return end is not None and clock.monotonic() >= end

        if not encoded.documents or over():
            return {}
        prefix = self._scorer.prefix(encoded.head, encoded.query)

        def run(batch: list[int]) -> dict[int, float]:
            if over():
                return {}
            found = prefix.logits([encoded.documents[i].ids for i in batch])
            return dict(zip(batch, found.tolist(), strict=True))

        batches = prefix.batches([len(document.ids) for document in encoded.documents], self._threads)
        with ThreadPoolExecutor(self._threads) as pool:
            logits = {i: logit for found in pool.map(run, batches) for i, logit in found.items()}
        _require_finite(logits)
        return logits

    def _hits(
        self, order: list[int], logits: list[float], documents: list[DocumentT], base_rate: float | None
    ) -> list[Hit[DocumentT]]:
        scores = self._probabilities(logits, base_rate).tolist()
        intervals: Iterable[tuple[float, float] | None] = [None] * len(order)
        if self.manifest.calibration is not None:
            low, high = self.manifest.calibration.interval(logits, base_rate)
            intervals = zip(low.tolist(), high.tolist(), strict=True)
        rows = zip(order, scores, logits, intervals, strict=True)
        return [Hit(i, score, logit, documents[i], interval) for i, score, logit, interval in rows]

    def _probabilities(self, logits: npt.ArrayLike, base_rate: float | None) -> Float:
        if base_rate is None and self.manifest.calibration is None:
            return sigmoid(logits)
        return self._calibration("Using a base rate").probability(logits, base_rate).astype(np.float32)

    def _calibration(self, purpose: str) -> Calibration:
        if self.manifest.calibration is None:
            raise CalibrationError(
                f"{purpose} needs a calibrated artifact, and the one in {self.path} is not; run memrerank-calibrate "
                "with labelled pairs."
            )
        return self.manifest.calibration

    def _least_score(self, threshold: float | str | None, base_rate: float | None) -> float:
        """The lowest score that `threshold` keeps."""
        if threshold is None:
            return 0.0
        if isinstance(threshold, str):
            promise = parse_promise(threshold)
            return self._calibration(f"Promising {promise}").threshold(promise, base_rate)
        if not isinstance(threshold, Real) or not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold!r}; a probability between 0 and 1 was expected.")
        if self.manifest.calibration is None and not self._warned:
            self._warned = True
            warnings.warn(
                "This artifact is not calibrated: the threshold compares sigmoid(logit), which is no probability.",
                stacklevel=3,
            )
        return float(threshold)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise MemrerankError(
                "This Reranker was loaded before the process forked, and ONNX Runtime's threads do not survive that. "
                "Call Reranker.load in the child process."
            )

    def _check_probe(self, probe: Probe | None) -> None:
        if probe is None:
            raise ArtifactError(
                f"The artifact in {self.path} was never run where it was made: its export was interrupted. Run the "
                "same memrerank-export command again to complete it, or load it with probe=False."
            )
        try:
            logit = float(self.score(probe.query, [probe.document], raw=True)[0])
        except ScoringError:
            logit = float("nan")
        if not abs(logit - probe.logit) <= probe.tolerance:
            raise ArtifactError(
                f"The artifact's known pair scores {logit:.4f} on this machine, and {probe.logit:.4f} (within "
                f"{probe.tolerance:.4f}) was expected: its files were changed or a kernel computes wrongly here. "
                "Run memrerank verify; if the files are whole, please report the processor, the driver and the version "
                "of ONNX Runtime."
            )


def artifact_folder(artifact: str | os.PathLike[str]) -> Path:
    """The folder that a caller names; "default" stands for the embedded model."""
    if not isinstance(artifact, (str, os.PathLike)):
        raise InputError(f"artifact is of type {type(artifact).__name__}; the path of a folder was expected.")
    return Path(str(files("memrerank").joinpath("default"))) if artifact == "default" else Path(artifact)


def sigmoid(logits: npt.ArrayLike) -> Float:
    """1 / (1 + exp(-logit)), without overflow, as float32."""
    return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64))).astype(np.float32)


def _check_options(top_k: int | None, deadline_ms: float | None) -> None:
    if top_k is not None and (not isinstance(top_k, Integral) or top_k < 0):
        raise InputError(f"top_k is {top_k!r}; a whole number of hits was expected.")
    if deadline_ms is not None and (not isinstance(deadline_ms, Real) or deadline_ms != deadline_ms):
        raise InputError(f"deadline_ms is {deadline_ms!r}; a number of milliseconds was expected.")


def _require_finite(logits: dict[int, float]) -> None:
    broken = [i for i, logit in logits.items() if not np.isfinite(logit)]
    if broken:
        raise ScoringError(
            f"The model gave no finite score for documents {broken}; the artifact overflows on them. "
            "Export it again in a higher precision."
        )


def _as_list(values: Iterable[DocumentT], name: str) -> list[DocumentT]:
    if isinstance(values, (str, bytes, Mapping, Memory)):
        raise InputError(f"{name} is a single {type(values).__name__}; a list of them was expected.")
    try:
        one_by_one = iter(values)
    except TypeError as error:
        raise InputError(f"{name} is of type {type(values).__name__}; a list of documents was expected.") from error
    return list(one_by_one)
