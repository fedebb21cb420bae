"""Train the cross-encoder from a base model, a sentence encoder, or train a checkpoint of it further.

Run again with the same arguments to go on where the last save stood; the result is the same as without the pause.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm
from transformers import BertForSequenceClassification

from conversations import conversations
from data import read_passages, read_rows
from groups import Group
from hardest import hardest, too_many
from losses import group_loss, kept
from model import LIMIT, load_model, load_tokenizer, save_checkpoint, step_logits
from quantization import simulate_int8
from scenes import Scenes
from steps import Mix, Steps


@dataclass(frozen=True)
class Schedule:
    """The learning rate: up over `warmup` steps to `peak`, then straight to `end` at `steps`."""

    steps: int
    warmup: int
    peak: float
    end: float

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak + (self.end - self.peak) * done


class Scored(NamedTuple):
    """Logits and labels [documents of all groups], how many each group has, and which of them count."""

    logits: Tensor
    labels: Tensor
    sizes: list[int]
    counted: Tensor


class Trainer:
    """A model with its optimizer, and the step it stands at."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.output: Path = options.output
        self.output.mkdir(parents=True, exist_ok=True)
        self.tokenizer: Tokenizer = load_tokenizer(options.base)
        self.model: BertForSequenceClassification = load_model(options.start or options.base, options.seed).train()
        self.optimizer = torch.optim.AdamW(_by_decay(self.model), lr=0.0, betas=(0.9, 0.98), eps=1e-6, fused=True)
        self.schedule = Schedule(options.steps, options.warmup, options.lr, options.lr_end)
        self.step = 0
        self.seconds = 0.0

    @property
    def state_file(self) -> Path:
        """Where the run can be taken up again."""
        return self.output / "state.pt"

    def save(self) -> None:
        """Write the state at once or not at all."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        partial = self.state_file.with_suffix(".partial")
        torch.save(state | {"step": self.step, "seconds": self.seconds}, partial)
        partial.replace(self.state_file)

    def resume(self) -> None:
        """Go on from the last save, if there is one."""
        if not self.state_file.exists():
            return
        state: dict[str, Any] = torch.load(self.state_file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        if self.step > self.options.int8_from:
            simulate_int8(self.model)

    def scored(self, groups: Sequence[Group]) -> Scored:
        """The documents of all groups, scored by the model as it stands."""
        options = self.options
        pairs = [(group.query, document) for group in groups for document in group.documents]
        logits = step_logits(self.model, self.tokenizer, pairs, options.tokens, options.limit, options.bf16)
        labels = torch.tensor([label for group in groups for label in group.labels])
        sizes = [len(group.labels) for group in groups]
        margins = [math.inf if group.made_up else options.forgive for group in groups]
        return Scored(logits, labels, sizes, kept(logits.detach(), labels, sizes, margins))

    @torch.no_grad()
    def with_hardest(self, groups: Sequence[Group]) -> list[Group]:
        """The groups; those with many negatives come last, with their hardest."""
        few, many = ([group for group in groups if too_many(group) is chosen] for chosen in (False, True))
        if not many:
            return few
        found = self.scored(many)
        rng = random.Random(f"{self.options.seed} {self.step} hardest")
        parts = zip(many, found.logits.split(found.sizes), found.counted.split(found.sizes), strict=True)
        return few + [hardest(group, scores.tolist(), counted.tolist(), rng) for group, scores, counted in parts]

    def train_step(self, steps: Steps) -> dict[str, float]:
        """One update; what is logged of it is returned."""
        began = time.monotonic()
        if self.step == self.options.int8_from:
            simulate_int8(self.model)
        rate = self.schedule.rate(self.step)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        found = self.scored(self.with_hardest(steps.groups(self.step)))
        loss, contrast, entropy = group_loss(*found, self.options.pointwise)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.seconds += time.monotonic() - began
        figures = {"loss": loss, "contrast": contrast, "entropy": entropy, "norm": norm}
        rounded = {name: round(value.item(), 4) for name, value in figures.items()}
        return {
            "step": self.step,
            **rounded,
            "lr": rate,
            "pairs": len(found.labels),
            "forgiven": int((~found.counted).sum()),
            "seconds": round(self.seconds, 1),
        }

    def run(self, steps: Steps) -> None:
        """Train to the last step or for the minutes given, saving every few minutes, and write the checkpoint."""
        self.resume()
        began = saved = time.monotonic()
        log = (self.output / "log.jsonl").open("a", encoding="utf-8", buffering=1)
        with log, tqdm(total=self.options.steps, initial=self.step, unit="step", disable=None) as bar:
            while self.step < self.options.steps and time.monotonic() - began < 60 * self.options.minutes:
                figures = self.train_step(steps)
                log.write(json.dumps(figures) + "\n")
                bar.update()
                bar.set_postfix(loss=figures["loss"])
                if time.monotonic() - saved > 60 * self.options.save_minutes:
                    self.save()
                    saved = time.monotonic()
        self.save()
        save_checkpoint(self.model, self.options.base, self.output / "checkpoint", torch.float32)


def _by_decay(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Weight decay on matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", type=Path, required=True, help="folder with config.json, model.safetensors and tokenizer.json")
    add("--start", type=Path, help="checkpoint to train further (default: the base model, with a new head)")
    add("--data", type=Path, required=True, help="folder with passages.jsonl.gz and train.jsonl.gz")
    add("--output", type=Path, required=True, help="folder for the state, the log and the checkpoint")
    add("--steps", type=int, default=2000, help="updates (default %(default)s)")
    add("--groups", type=int, default=32, help="queries of a step (default %(default)s)")
    add("--memory", type=float, default=0.4, help="share of queries on made-up dialogues (default %(default)s)")
    add("--scenes", type=float, default=0.06, help="share of queries on written scenes (default %(default)s)")
    add("--scene-files", nargs="*", default=[], metavar="PATTERN", help="files of templates/scenes (default: all)")
    add("--lr", type=float, default=1.5e-4, help="highest learning rate (default %(default)s)")
    add("--lr-end", type=float, default=3e-5, help="learning rate at the last step (default %(default)s)")
    add("--warmup", type=int, default=100, help="steps to the highest learning rate (default %(default)s)")
    add("--pointwise", type=float, default=0.5, help="weight of the cross-entropy (default %(default)s)")
    add("--limit", type=int, default=LIMIT, help="tokens of a pair (default %(default)s)")
    add("--tokens", type=int, default=4096, help="tokens of a batch in memory (default %(default)s)")
    add("--int8-from", type=int, default=10**9, help="simulate the int8 artifact from this step on (default: never)")
    add(
        "--forgive", type=float, default=math.inf, help="leave out negatives so far above the positives (default: none)"
    )
    add("--no-bf16", dest="bf16", action="store_false", help="compute in float32 throughout")
    add("--seed", type=int, default=1, help="seed of head, order and templates (default %(default)s)")
    add("--threads", type=int, default=2, help="threads of torch (default %(default)s)")
    add("--minutes", type=float, default=float("inf"), help="stop after this time, to go on later (default: never)")
    add("--save-minutes", type=float, default=3.0, help="time between saves (default %(default)s)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = arguments().parse_args(argv)
    torch.set_num_threads(options.threads)
    mix = Mix(options.groups, options.memory, options.scenes, options.seed)
    scenes = Scenes(options.base, conversations(*options.scene_files))
    steps = Steps(read_rows(options.data, "train"), read_passages(options.data), scenes, mix)
    Trainer(options).run(steps)


if __name__ == "__main__":
    main()
