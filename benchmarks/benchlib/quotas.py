"""Shares of a core for processes, by cgroups: version 1 (`cpu.cfs_quota_us`) or 2 (`cpu.max`)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# Seconds after which a quota begins anew. A share of an eightieth then runs for 6 ms in a row: in slices of
# 1 ms each begins with cold caches, which no slow device does.
PERIOD = 0.5
LEAST = 0.001  # seconds of a core a period: the kernel takes no smaller quota


class NoQuotasError(Exception):
    """This machine lets nobody set quotas; in one line, with what to do."""


@dataclass(frozen=True)
class Used:
    """What a group's processes have taken so far.

    cpu_seconds: User and system. periods, throttled: periods with something to do, and those in which the
    quota was used up. throttled_seconds: waiting for the next period, of each core that it ran on.
    """

    cpu_seconds: float
    periods: int
    throttled: int
    throttled_seconds: float

    def since(self, before: Used) -> Used:
        """Return what was taken since an earlier reading."""
        return Used(*(now - then for now, then in zip(values(self), values(before), strict=True)))


def values(used: Used) -> tuple[float, ...]:
    return tuple(asdict(used).values())


class Quotas:
    """Groups of processes, each with a share of a core, under one folder of the cgroup file system.

    folder: Holds a group a folder. version: Of cgroups, 1 or 2.
    """

    def __init__(self, folder: Path, version: int) -> None:
        self.folder, self.version = folder, version
        self._pids: dict[str, list[int]] = {}

    def add(self, name: str, cores: float, pid: int) -> None:
        """Let a process, and all that it starts from now on, use so many cores at most."""
        group = self.folder / name
        group.mkdir()
        for file, text in limit_files(self.version, cores).items():
            (group / file).write_text(text)
        (group / "cgroup.procs").write_text(str(pid))
        self._pids[name] = [pid]

    def lift(self) -> None:
        """Take all quotas away: a process needs a core to end, too."""
        file, text = ("cpu.cfs_quota_us", "-1") if self.version == 1 else ("cpu.max", "max")
        for name in self._pids:
            (self.folder / name / file).write_text(text)

    def used(self) -> dict[str, Used]:
        """Return what every group has used so far."""
        return {name: self._used(name, pids) for name, pids in self._pids.items()}

    def _used(self, name: str, pids: list[int]) -> Used:
        stat = dict(line.split() for line in (self.folder / name / "cpu.stat").read_text().splitlines())
        # Version 1 counts CPU time elsewhere, and in nanoseconds.
        scale, key = (1e9, "throttled_time") if self.version == 1 else (1e6, "throttled_usec")
        ran = sum(map(cpu_seconds, pids))
        return Used(ran, int(stat["nr_periods"]), int(stat["nr_throttled"]), int(stat[key]) / scale)

    def remove(self) -> None:
        """Remove all groups, whose processes must have ended."""
        until = time.monotonic() + 5
        for group in [*self.folder.glob("*/"), self.folder]:
            while group.is_dir():
                try:
                    group.rmdir()
                except OSError:  # a process is still on its way out
                    if time.monotonic() > until:
                        break
                    time.sleep(0.05)


def limit_files(version: int, cores: float, period: float = PERIOD) -> dict[str, str]:
    """Return {file: text} that limits a group to so many cores."""
    if cores * period < LEAST - 1e-9:
        raise ValueError(f"{cores:g} of a core is less than {LEAST * 1000:g} ms in {period * 1000:g} ms")
    whole, share = round(period * 1e6), round(cores * period * 1e6)
    if version == 1:  # the period first: a quota is checked against it
        return {"cpu.cfs_period_us": str(whole), "cpu.cfs_quota_us": str(share)}
    return {"cpu.max": f"{share} {whole}"}


def find_parent(root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> tuple[Path, int]:
    """Return the folder in which groups can be made, and the version of its cgroups.

    own: Tells in which groups this process is. Raises NoQuotasError.
    """
    if (root / "cpu" / "cpu.cfs_quota_us").exists():
        parent, version = root / "cpu", 1
    elif (root / "cgroup.controllers").exists():
        # Beside this process's group: one that holds processes cannot limit groups within it.
        lines = own.read_text().splitlines()
        inside = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
        parent, version = (root / inside.strip("/")), 2
        if parent != root:
            parent = parent.parent
        if "cpu" not in (parent / "cgroup.controllers").read_text().split():
            raise NoQuotasError(f"{parent} has no cpu controller: run as root, or under `systemd-run --user`")
    else:
        raise NoQuotasError(f"no cgroups with CPU quotas under {root}: this benchmark needs Linux with them")
    if not os.access(parent, os.W_OK):
        raise NoQuotasError(f"no CPU quotas can be set: {parent} is not writable; run as root")
    return parent, version


@contextmanager
def open_quotas(root: Path = ROOT) -> Iterator[Quotas]:
    """Give a folder of groups of its own, and remove it at the end. Raises NoQuotasError."""
    parent, version = find_parent(root)
    folder = parent / f"splitft-{os.getpid()}"
    quotas = Quotas(folder, version)
    try:
        if version == 2:
            (parent / "cgroup.subtree_control").write_text("+cpu")
        folder.mkdir()
        if version == 2:
            (folder / "cgroup.subtree_control").write_text("+cpu")
    except OSError as error:
        raise NoQuotasError(f"no CPU quotas can be set: {error}; run as root") from error
    try:
        yield quotas
    finally:
        quotas.remove()


def cpu_seconds(pid: int) -> float:
    """Return the user and system seconds of a process's threads, by the scheduler's own clock."""
    ran = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            ran += int((thread / "schedstat").read_text().split()[0])
        except OSError:  # it has ended
            continue
    return ran / 1e9


def check_sum(shares: Mapping[str, float], room: float, cores: int) -> None:
    """Raise NoQuotasError where the shares, with room for what else runs, do not fit the machine's cores."""
    if (total := sum(shares.values()) + room) > cores + 1e-9:
        raise NoQuotasError(
            f"quotas of {total:.2f} cores in all do not fit {cores}: lower --server or --fastest"
        )
