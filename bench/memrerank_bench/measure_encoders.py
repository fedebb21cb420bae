"""One measurement of `memrerank_bench.encoders` in a process of its own, printed as one line of JSON."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
from scipy.stats import kendalltau
from tokenizers import Tokenizer

from memrerank import Reranker
from memrerank.encoder import Encoder
from memrerank.session import session_options
from memrerank_bench.docstrings import documented_texts
from memrerank_bench.encoders import PAIRS, TOKENS
from memrerank_bench.words import WORDS

Float = npt.NDArray[np.float32]
Feeds = dict[str, npt.NDArray[np.int64]]

ROUNDS = 12
BATCHES = (1, 10, 25, 50)
TOKEN_BUDGETS = (64, 128, 320, 640)
MODELS = {
    "memrerank-int8": "memrerank-int8/model.onnx",
    "memrerank-fp32": "memrerank-fp32/model.onnx",
    "optimum-int8": "optimum-int8/model_quantized.onnx",
    "optimum-int8-per-channel": "optimum-int8-per-channel/model_quantized.onnx",
}
QUERIES, CANDIDATES, LABELS, LONGEST = 12, 30, 64, 128
SEPARATOR = 102


def prepare(work: Path, checkpoint: Path) -> dict[str, Any]:
    """Make the classifier of seeded weights, its artifacts, and optimum's, where they are not there."""
    if not (work / "classifier").exists():
        write_classifier(work / "classifier", checkpoint)
    from memrerank_export.cli import main as export

    for precision in ("int8", "fp32"):
        if not (work / f"memrerank-{precision}").exists():
            export([str(work / "classifier"), str(work / f"memrerank-{precision}"), "--precision", precision])
    if not (work / "optimum-int8-per-channel").exists():
        _write_optimum(work)
    return {}


def speed(work: Path) -> dict[str, Any]:
    """Rounds of seconds for PAIRS pairs: by token budget for memrerank, which starts from texts, else by batch size."""
    calls = _calls(work)
    rounds: list[dict[str, dict[str, float]]] = []
    for _ in range(ROUNDS + 1):
        rounds.append({name: {} for name, _ in calls})
        for (name, size), call in calls.items():
            time.sleep(0.03)  # until the threads of the one before have gone to sleep
            start = time.perf_counter()
            call()
            rounds[-1][name][str(size)] = time.perf_counter() - start
    return {"rounds": rounds[1:]}


def _calls(work: Path) -> dict[tuple[str, int], Callable[[], object]]:
    """A call for each model and size of its runs."""
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    rerankers = {name: Reranker.load(work / name, verify=False) for name in MODELS if name.startswith("memrerank")}
    for name, reranker in rerankers.items():
        texts = _texts(reranker)
        for budget in TOKEN_BUDGETS:
            calls[name, budget] = partial(_score, reranker, texts, budget)
    rows = np.array(_rows(rerankers["memrerank-int8"]))
    runs = {name: _session(work / MODELS[name], ort.SessionOptions()) for name in MODELS if name not in rerankers}
    for name, run in {"torch": _torch(work), **runs}.items():
        for size in BATCHES:
            calls[name, size] = partial(_in_batches, run, rows, size)
    return calls


def _score(reranker: Reranker, texts: tuple[str, list[str]], budget: int) -> None:
    Encoder.token_budget = budget
    reranker.score(*texts)


def quality(name: str, work: Path) -> dict[str, Any]:
    """Errors of hidden states, agreement of the order of candidates, and what company does to a logit."""
    import torch

    torch.set_num_threads(1)
    pairs = [_feeds(np.array([ids])) for ids in real_pairs(work / "classifier")]
    graph, states = _with_states(work / MODELS[name])
    session = ort.InferenceSession(str(graph), session_options(1), providers=["CPUExecutionProvider"])
    model = _load_torch(work)
    errors, expected, found = [], [], []
    for feeds in pairs:
        with torch.inference_mode():
            exact = model.bert(
                **{key: torch.from_numpy(value) for key, value in feeds.items()}, output_hidden_states=True
            )
        layers = session.run(states, _known(session, feeds))
        errors.append([_error(x, y.numpy()) for x, y in zip(layers, exact.hidden_states, strict=True)])
        expected.append(exact.hidden_states[-1][0, 0].numpy())
        found.append(layers[-1][0, 0])
    return {
        "state_errors": np.mean(errors, axis=0).tolist(),
        "kendall_tau": _mean_tau(np.array(expected), np.array(found)),
        "batch_change": _batch_change(name, work),
    }


def real_pairs(classifier: Path) -> Iterator[list[int]]:
    """The token ids of QUERIES queries, each with CANDIDATES candidates."""
    tokenizer = Tokenizer.from_file(str(classifier / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST, strategy="only_second")
    texts = documented_texts()
    draw = random.Random(0)
    for query, answer in draw.sample(texts, QUERIES):
        for candidate in [answer, *(text for _, text in draw.sample(texts, CANDIDATES - 1))]:
            yield tokenizer.encode(query, candidate).ids


def write_classifier(folder: Path, checkpoint: Path) -> None:
    """The published encoder with a seeded label."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(checkpoint, num_labels=1)
    model = transformers.BertForSequenceClassification.from_pretrained(checkpoint, config=config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.classifier.weight.normal_(std=4 / config.hidden_size**0.5, generator=generator)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(checkpoint / name, folder / name)


def _write_optimum(work: Path) -> None:
    """What a user of optimum makes: the ONNX export, quantized dynamically for AVX512-VNNI."""
    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    main_export(str(work / "classifier"), str(work / "optimum"), task="text-classification", do_validation=False)
    for name, per_channel in (("optimum-int8", False), ("optimum-int8-per-channel", True)):
        quantizer = ORTQuantizer.from_pretrained(work / "optimum", file_name="model.onnx")
        how = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=per_channel)
        quantizer.quantize(save_dir=work / name, quantization_config=how)


def _texts(reranker: Reranker) -> tuple[str, list[str]]:
    """A query and documents whose pairs have exactly TOKENS tokens."""
    draw = random.Random(0)
    room = TOKENS - len(reranker.encode("", ""))
    query, *documents = (" ".join(draw.choices(WORDS, k=size)) for size in (16, *[room - 16] * PAIRS))
    lengths = {len(reranker.encode(query, document)) for document in documents}
    if lengths != {TOKENS}:
        raise AssertionError(f"pairs of {TOKENS} tokens were meant, found {lengths}")
    return query, documents


def _rows(reranker: Reranker) -> list[list[int]]:
    query, documents = _texts(reranker)
    return [reranker.encode(query, document) for document in documents]


def _torch(work: Path) -> Callable[[Feeds], Float]:
    import torch

    model = _load_torch(work)

    def run(feeds: Feeds) -> Float:
        with torch.inference_mode():
            logits: Float = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits.numpy()
        return logits.reshape(-1)

    return run


def _load_torch(work: Path) -> Any:
    import torch
    import transformers

    return transformers.BertForSequenceClassification.from_pretrained(work / "classifier", dtype=torch.float32)


def _session(path: Path, options: ort.SessionOptions) -> Callable[[Feeds], Float]:
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run([session.get_outputs()[0].name], _known(session, feeds))[0].reshape(-1)


def _known(session: ort.InferenceSession, feeds: Feeds) -> Feeds:
    return {value.name: feeds[value.name] for value in session.get_inputs()}


def _feeds(rows: npt.NDArray[np.int64]) -> Feeds:
    """The inputs of pairs of equal length; the second text follows the first token SEPARATOR."""
    separators = rows == SEPARATOR
    types = (separators.cumsum(axis=1) > separators).astype(np.int64)
    return {"input_ids": rows, "token_type_ids": types, "attention_mask": np.ones_like(rows)}


def _in_batches(run: Callable[[Feeds], Float], rows: npt.NDArray[np.int64], size: int) -> Float:
    return np.concatenate([run(_feeds(rows[start : start + size])) for start in range(0, len(rows), size)])


def _with_states(graph: Path) -> tuple[Path, list[str]]:
    """The graph with the states after the embeddings and every layer as outputs, and their names."""
    model = ir.load(graph)
    pattern = r"/bert/(embeddings|encoder/layer\.\d+/output)/LayerNorm/LayerNormalization_output_0"
    states = [value for node in model.graph for value in node.outputs if re.fullmatch(pattern, str(value.name))]
    for value in states:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs.extend(states)
    path = graph.with_name("with_states.onnx")
    ir.save(model, path)
    return path, [str(value.name) for value in states]


def _error(found: Float, exact: Float) -> float:
    """||found - exact|| / ||exact||, over the tokens that were computed."""
    exact = exact[:, : found.shape[1]]
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _mean_tau(expected: Float, found: Float) -> float:
    """Kendall's tau of the candidates' order, the mean over queries and seeded labels on the first token's state."""
    labels = np.random.default_rng(0).standard_normal((expected.shape[1], LABELS))
    taus = [
        kendalltau(one, other).statistic
        for start in range(0, len(expected), CANDIDATES)
        for one, other in zip(
            (expected[start : start + CANDIDATES] @ labels).T,
            (found[start : start + CANDIDATES] @ labels).T,
            strict=True,
        )
    ]
    return float(np.mean(taus))


def _batch_change(name: str, work: Path) -> float:
    """The largest change of a logit in a batch of ten pairs of its length, in standard deviations of logits."""
    run = _session(work / MODELS[name], session_options(1))
    rows = np.array(_rows(Reranker.load(work / "memrerank-int8", verify=False)))
    alone, together = (_in_batches(run, rows, size) for size in (1, 10))
    return float(np.abs(together - alone).max() / alone.std())


if __name__ == "__main__":
    kind, name, work, checkpoint = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    measurements: dict[str, Callable[[], dict[str, Any]]] = {
        "prepare": lambda: prepare(work, checkpoint),
        "speed": lambda: speed(work),
        "quality": lambda: quality(name, work),
    }
    print(json.dumps(measurements[kind]()))
