"""Kill a run at random moments, start it again each time, and compare its output with that of an undisturbed run.

Example: python benchmarks/kill.py posts.csv taxonomies/weibo.csv --limit 2000 --kills 25

All commands that write are killed so by kill_commands.py. Exit 1 when the outputs differ, or when a worker outlives the run
whose process was killed.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GONE_SECONDS = 20.0
Command = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Result:
    """What came of it: `outputs` of the undisturbed run, of a second one over its store, and of each killed one."""

    outputs: list[object]
    kills: int
    alone: int
    orphans: int
    cold_seconds: float
    warm_seconds: float
    killed_seconds: float

    @property
    def same(self) -> bool:
        """Return whether all outputs are the same."""
        return all(output == self.outputs[0] for output in self.outputs)


def disturb(command: Command, read: Callable[[Path], object], folder: Path, kills: int, seed: int) -> Result:
    """Run a command undisturbed, then killed `kills` times and started again, each from an empty folder.

    `command` gives the command that works in a folder (store, run folder and output), `read` what it has written there.
    Each kill hits a running process: the process alone, whose workers must then end by themselves, or its whole group,
    by the toss of a coin. The moment lies between the start and the time that the rest of the work is thought to take,
    so that the kills of one round come earlier and later; a round that ended before its kill is followed by another.
    """
    chance = random.Random(seed)
    undisturbed = folder / "undisturbed"
    undisturbed.mkdir()
    cold_seconds = finish(command(undisturbed))
    outputs = [read(undisturbed)]
    warm_seconds = finish(command(undisturbed))
    outputs.append(read(undisturbed))
    started = time.monotonic()
    done, rounds, groups = 0, 0, []
    while done < kills:
        rounds += 1
        place = folder / f"killed-{rounds}"
        place.mkdir()
        left = cold_seconds
        while done < kills:
            moment = chance.uniform(0, max(left, warm_seconds))
            child = start(command(place))
            if ends_within(child, moment):
                break
            alone = chance.random() < 0.5
            if alone:
                child.kill()
                groups.append(child.pid)
            else:
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            done += 1
            left -= max(0.0, moment - warm_seconds)
        else:
            finish(command(place))
        outputs.append(read(place))
    seconds = time.monotonic() - started
    orphans = sum(not is_gone(group) for group in groups)
    return Result(outputs, done, len(groups), orphans, cold_seconds, warm_seconds, seconds)


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start a command as the head of a process group of its own."""
    return subprocess.Popen(
        command,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(command: list[str]) -> float:
    """Run a command to its end and return the seconds; raises RuntimeError with what it said when it fails."""
    started = time.monotonic()
    child = start(command)
    _, said = child.communicate()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {child.returncode}: {said.strip()}")
    return time.monotonic() - started


def ends_within(child: subprocess.Popen[str], seconds: float) -> bool:
    """Return whether a process ended well within the time; raises RuntimeError when it failed."""
    try:
        _, said = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    if child.returncode:
        raise RuntimeError(f"exit {child.returncode}: {said.strip()}")
    return True


def is_gone(group: int) -> bool:
    """Return whether no process of a group is left, now or soon."""
    end = time.monotonic() + GONE_SECONDS
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def main() -> int:
    """Read the arguments, disturb `weibotag tag` and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts")
    parser.add_argument("tagger", type=Path, help="a taxonomy, or the folder of a model")
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tagger = ["-m" if arguments.tagger.is_dir() else "-t", str(arguments.tagger)]

    def command(place: Path) -> list[str]:
        tag = [sys.executable, "-m", "weibotag", "tag", arguments.posts, *tagger, "--limit", str(arguments.limit)]
        return [*tag, "--store", str(place / "store"), "-o", str(place / "out.parquet"), "--quiet"]

    def read(place: Path) -> str:
        return hashlib.sha256((place / "out.parquet").read_bytes()).hexdigest()

    with tempfile.TemporaryDirectory() as folder:
        result = disturb(command, read, Path(folder), arguments.kills, arguments.seed)
    print(
        f"{arguments.limit} posts, {result.kills} kills ({result.alone} of the process alone, the others with its workers), "
        f"{len(result.outputs) - 2} rounds: {'same bytes' if result.same else 'DIFFERENT bytes'}, "
        f"{result.orphans} workers left behind; undisturbed {result.cold_seconds:.1f} s, again over the same store "
        f"{result.warm_seconds:.1f} s, killed {result.killed_seconds:.1f} s"
    )
    return 0 if result.same and not result.orphans else 1


if __name__ == "__main__":
    sys.exit(main())
