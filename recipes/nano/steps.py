"""Steps of groups, reproducible from a seed and a step number alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from data import Row, dress
from groups import Group
from memories import memory_group
from scenes import Scenes


@dataclass(frozen=True)
class Mix:
    """What a step is made of: `groups` groups, shares of which are made-up dialogues and written scenes."""

    groups: int
    memory: float
    scenes: float
    seed: int


class Steps:
    """The groups of every step. Step n depends on the seed and n only, so a run can go on from any step."""

    def __init__(self, rows: Sequence[Row], passages: list[str], scenes: Scenes, mix: Mix) -> None:
        self.passages = passages
        self.scenes = scenes
        self.mix = mix
        self.memories = round(mix.groups * mix.memory)
        self.written = round(mix.groups * mix.scenes)
        self.rows = random.Random(f"{mix.seed} order").sample(rows, len(rows))

    def groups(self, step: int) -> list[Group]:
        """The groups of a step."""
        rng = random.Random(f"{self.mix.seed} {step}")
        per_step = self.mix.groups - self.memories - self.written
        chosen = [self.rows[(step * per_step + i) % len(self.rows)] for i in range(per_step)]
        dressed = [dress(row, self.passages, rng) for row in chosen]
        made_up = [memory_group(rng) for _ in range(self.memories)]
        return dressed + made_up + [self.scenes.draw(rng) for _ in range(self.written)]
