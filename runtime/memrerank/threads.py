"""How many CPUs this process may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """CPUs this process may run on, or fewer where a cgroup limits its CPU time; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([allowed, *cgroup_limits(CGROUPS)])))


def cgroup_limits(root: Path, membership: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """The CPU limits, in CPUs, of this process's control groups (version 2, then version 1)."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _limits_up_to(root, path, _version_2_limit)
        elif "cpu" in controllers.split(","):
            yield from _limits_up_to(root / "cpu", path, _version_1_limit)


def _limits_up_to(root: Path, path: str, limit: Callable[[Path], float | None]) -> Iterator[float]:
    group = root / path.lstrip("/")
    for folder in [group, *group.parents]:
        if (found := limit(folder)) is not None:
            yield found
        if folder == root:
            return


def _version_2_limit(folder: Path) -> float | None:
    """cpu.max holds "<quota> <period>" in microseconds, or "max <period>"."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else None


def _version_1_limit(folder: Path) -> float | None:
    """cpu.cfs_quota_us is -1 without a limit."""
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
