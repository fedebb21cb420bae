"""What a process and its accelerator take while a block runs, sampled 50 times a second."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from memrerank_bench.gpu import Reading, read_gpu

SECONDS = 0.02


@dataclass
class Seen:
    """The largest resident memory of this process in bytes, and what the accelerator reported."""

    resident_bytes: int = 0
    gpu: list[Reading] = field(default_factory=list)

    def sample(self, *, with_gpu: bool = False) -> None:
        """Look once."""
        self.resident_bytes = max(self.resident_bytes, psutil.Process().memory_info().rss)
        if with_gpu:
            self.gpu.append(read_gpu())

    def gpu_summary(self) -> Reading:
        """The largest memory, and the means of power and clock; None for what is not reported."""
        memory, power, clock = ([r[name] for r in self.gpu] for name in ("memory_bytes", "power_watts", "clock_mhz"))
        return {
            "memory_bytes": max((size for size in memory if size is not None), default=None),
            "power_watts": mean(power),
            "clock_mhz": mean(clock),
        }


@contextmanager
def watch(*, with_gpu: bool = False) -> Iterator[Seen]:
    """What is seen from before the block to its end."""
    seen, done = Seen(), threading.Event()
    seen.sample(with_gpu=with_gpu)

    def sample() -> None:
        while not done.wait(SECONDS):
            seen.sample(with_gpu=with_gpu)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        seen.sample(with_gpu=with_gpu)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
