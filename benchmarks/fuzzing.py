"""Run weibotag's command line on hostile input under limits, judge each run, and print what came of all of them.

The fuzzers (`fuzz_*.py`) make the inputs; each input has a seed of its own, so that one that fails can be made again.
"""

import argparse
import collections
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

DOCUMENTED = frozenset({0, 1, 2, 3})
STDERR_LINES, LINE_LENGTH = 40, 2_000
# A run that waits, or a busy machine, may take so many times the CPU time that it is given.
PATIENCE = 5
# A run that asks for more is ended by the system: the machine is kept from harm, whatever the input.
ADDRESS_SPACE = 24 << 30


@dataclass(frozen=True)
class Outcome:
    """How one run ended: its exit code (negative for a signal), seconds of CPU, peak memory (MB) and stderr.

    The seconds are those of the command and the children that it waited for, the memory that of the largest of them.
    """

    code: int
    seconds: float
    megabytes: float
    stderr: str


def run(arguments: Sequence[str | bytes | Path], folder: Path, seconds: float = 60.0, stdin: bytes = b"") -> Outcome:
    """Run `weibotag ARGUMENTS` in a folder; one that takes `PATIENCE` times `seconds` is ended, with its children."""
    error_path = folder / f".stderr-{os.getpid()}"
    with error_path.open("wb") as errors, tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-m", "weibotag", *arguments],
            cwd=folder,
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE)),
        )
        timer = threading.Timer(PATIENCE * seconds, os.killpg, (child.pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
    stderr = error_path.read_bytes().decode("utf-8", "replace")
    error_path.unlink()
    return Outcome(child.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, stderr)


def run_warm(
    arguments: Sequence[str | Path], folder: Path, seconds: float = 60.0, patch: Callable[[], None] | None = None
) -> Outcome:
    """Run `weibotag ARGUMENTS` in a fork of this process, which has imported what it needs; else as `run`.

    `patch` is called in the fork before.
    """
    said = folder / ".stderr"
    child = os.fork()
    if not child:
        _become(arguments, folder, said, patch)
    timer = threading.Timer(PATIENCE * seconds, os.killpg, (child, signal.SIGKILL))
    timer.start()
    _, status, usage = os.wait4(child, 0)
    timer.cancel()
    stderr = said.read_bytes().decode("utf-8", "replace")
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, stderr)


def _become(arguments: Sequence[str | Path], folder: Path, said: Path, patch: Callable[[], None] | None) -> None:
    code = 99
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        os.chdir(folder)
        nothing, errors = os.open(os.devnull, os.O_RDWR), os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for number, source in enumerate((nothing, nothing, errors)):
            os.dup2(source, number)
        from weibotag.cli.main import main as command

        if patch is not None:
            patch()
        sys.argv = ["weibotag", *map(str, arguments)]
        command()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        os._exit(code)


def faults(outcome: Outcome, seconds: float, megabytes: float, codes: frozenset[int] = DOCUMENTED) -> Iterator[str]:
    """Yield what is wrong with a run, a short line each: nothing where it kept its promises."""
    if outcome.seconds > seconds:
        yield f"over {seconds:g} s"
    elif outcome.code < 0:
        yield f"ended by {signal.Signals(-outcome.code).name}"
    elif outcome.code not in codes:
        yield f"exit code {outcome.code}"
    if outcome.megabytes > megabytes:
        yield f"over {megabytes:g} MB"
    if "Traceback" in outcome.stderr:
        yield f"traceback: {outcome.stderr.strip().splitlines()[-1][:120]}"
    lines = outcome.stderr.splitlines()
    if len(lines) > STDERR_LINES or max(map(len, lines), default=0) > LINE_LENGTH:
        yield f"stderr of {len(lines)} lines, the longest of {max(map(len, lines))} characters"
    if outcome.code in codes - {0} and not outcome.stderr.strip():
        yield f"exit code {outcome.code} without a word"


@dataclass
class Tally:
    """What came of the inputs of one kind: exit codes, the slowest and the largest run, and every fault with its seed."""

    kind: str
    codes: collections.Counter[int] = field(default_factory=collections.Counter)
    slowest: float = 0.0
    largest: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, seed: int, outcome: Outcome, found: Sequence[str]) -> None:
        """Count one run and what was wrong with it."""
        self.codes[outcome.code] += 1
        self.slowest = max(self.slowest, outcome.seconds)
        self.largest = max(self.largest, outcome.megabytes)
        self.failures += [(seed, fault) for fault in found]
        for fault in found:
            print(f"{self.kind} seed {seed}: {fault}", flush=True)


Trial = Callable[[random.Random, Path], tuple[Outcome, list[str]]]


def fuzz(kinds: dict[str, Trial], count: int, seed: int) -> int:
    """Run `count` trials of each kind, in turns, print a table, and return 1 if any failed; SIGTERM ends it early.

    A trial gets a random number generator and an empty folder, makes an input, runs commands on it, and returns the last
    outcome with all that was wrong.
    """
    tallies = {kind: Tally(kind) for kind in kinds}
    try:
        for number, (kind, trial) in product(range(seed, seed + count), kinds.items()):
            with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
                tallies[kind].add(number, *trial(random.Random(f"{kind}-{number}"), Path(folder)))
    except KeyboardInterrupt:
        print("interrupted: this is what was done")
    print("kind                 inputs  exit codes                     most CPU s  most MB  faults")
    for tally in tallies.values():
        codes = " ".join(f"{code}:{times}" for code, times in sorted(tally.codes.items()))
        total, failed = tally.codes.total(), len({seed for seed, _ in tally.failures})
        print(f"{tally.kind:<20} {total:>6}  {codes:<30} {tally.slowest:>9.1f} {tally.largest:>8.0f} {failed:>7}")
    return int(any(tally.failures for tally in tallies.values()))


def main(kinds: dict[str, Trial], description: str | None) -> None:
    """Read `--kind`, `--seed` and `--count`, fuzz, and exit 1 if anything failed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--kind", choices=kinds, help="one kind of input only")
    parser.add_argument("--seed", type=int, default=0, help="of the first input; the others follow")
    parser.add_argument("--count", type=int, default=100, help="inputs of each kind")
    asked = parser.parse_args()
    chosen = {asked.kind: kinds[asked.kind]} if asked.kind else kinds
    # Where a shell started this in the background Ctrl-C is not heard.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(fuzz(chosen, asked.count, asked.seed))


def mutated(data: bytes, chance: random.Random, most: int = 8) -> bytes:
    """Return bytes with a few changes: bytes replaced, pieces cut, doubled, moved or overwritten, or the end cut off."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, most)):
        if not changed:
            return b""
        at = chance.randrange(len(changed))
        piece = slice(at, at + chance.choice((1, 2, 4, 16, 256)))
        match chance.randrange(6):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                changed[piece] = chance.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * len(changed[piece])
            case 2:
                del changed[piece]
            case 3:
                changed[at:at] = changed[piece] * chance.choice((1, 1, 1, 50))
            case 4:
                changed[at:at] = chance.randbytes(chance.randint(1, 8))
            case _:
                if chance.random() < 0.3:
                    del changed[at:]
    return bytes(changed)
