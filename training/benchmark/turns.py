"""Two ways of the same work, in processes that take turns: what else the machine does meets both alike, and the peak
memory of each is its own."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmark.cases import CASES, Size, Way

MAIN = Path(__file__).with_name("__main__.py")
LAUNCH = Path(__file__).resolve().parents[1] / "launch" / "cpu-2.yaml"


def measure(name: str, way: int, size: Size) -> None:
    """
    The process of one way of a case, or each of its processes: prepares, warms up, then times one run for every line
    on stdin and answers in JSON with its seconds, how much it did, the peak memory above what was held before the
    warm-up and, if the case has one, the score of what it made.
    """
    import torch
    from torch import distributed

    from haba_hf.utils.allocator import keep_freed_memory, peak_memory

    answers, sys.stdout = sys.stdout, sys.stderr  # what the case itself prints
    if CASES[name].ways[way].keep_freed_memory:
        keep_freed_memory()
    run = CASES[name].ways[way].prepare(size)
    together = distributed.is_initialized()

    def say(answer: dict) -> None:
        if not (together and distributed.get_rank()):
            print(json.dumps(answer), file=answers, flush=True)

    before = peak_memory()
    run()
    say({"torch": torch.__version__, "threads": torch.get_num_threads()})
    for _ in _lines_of_stdin():
        started = time.perf_counter()
        done = run()
        seconds = time.perf_counter() - started
        peak = torch.tensor(peak_memory() - before)
        if together:
            distributed.all_reduce(peak)
        amount, score = done if isinstance(done, tuple) else (done, None)
        say({"seconds": seconds, "amount": amount, "bytes": peak.item(), "score": score and score()})


def _lines_of_stdin() -> Iterator[str]:
    """Of several processes the first reads, and tells the others."""
    from torch import distributed

    if not distributed.is_initialized():
        yield from sys.stdin
        return
    line = [""]
    while True:
        if distributed.get_rank() == 0:
            line = [sys.stdin.readline()]
        distributed.broadcast_object_list(line)
        if not line[0]:
            return distributed.destroy_process_group()
        yield line[0]


class Measured:
    """Median, least and most of some runs in the unit of their case, their peak memory in MB, and their scores."""

    def __init__(self, runs: list[dict], unit: str):
        per_second = unit.endswith("/s")
        self.unit = unit
        self.values = [
            run["amount"] / run["seconds"] if per_second else run["seconds"] / run["amount"] for run in runs
        ]
        self.seconds = statistics.median(run["seconds"] / run["amount"] for run in runs)
        self.peak = max(run["bytes"] for run in runs) / 1e6
        self.scores = [run["score"] for run in runs if run["score"] is not None]

    def __str__(self) -> str:
        digits = 0 if min(self.values) >= 100 else 2 if min(self.values) >= 1 else 3
        numbers = (statistics.median(self.values), min(self.values), max(self.values))
        median, low, high = (f"{value:,.{digits}f}" for value in numbers)
        text = f"{median} {self.unit} ({low} to {high})"
        if not self.scores:
            return text
        mean, spread = statistics.fmean(self.scores), statistics.pstdev(self.scores)
        return f"{text}, accuracy {100 * mean:.1f} ± {100 * spread:.1f} %"


def run_in_turns(name: str, options: list[str], repeats: int) -> tuple[list[Measured], dict]:
    """What the two ways of a case took, and the facts that their processes told."""
    case = CASES[name]
    runs: list[list[dict]] = [[] for _ in case.ways]
    processes: list[subprocess.Popen] = []
    print(name, file=sys.stderr, flush=True)
    try:
        for index, way in enumerate(case.ways):
            processes.append(_start(way, [*options, "--measure", name, str(index)]))
            facts = _answer(processes[-1], name)
        for _ in range(repeats * case.times_as_often):
            for process, of_way in zip(processes, runs, strict=True):
                process.stdin.write("run\n")
                process.stdin.flush()
                of_way.append(_answer(process, name))
    finally:
        for process in processes:
            _end(process)
    return [Measured(of_way, case.unit) for of_way in runs], facts


def _start(way: Way, options: list[str]) -> subprocess.Popen:
    command, environment = [str(MAIN), *options], dict(os.environ)
    if way.processes > 1:
        launcher = ["-m", "accelerate.commands.launch", "--main_process_port", "0"]
        command = [*launcher, "--config_file", str(LAUNCH), *command]
        threads = max((os.cpu_count() or 1) // way.processes, 1)
        environment |= {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": str(threads)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command], env=environment, start_new_session=True, **pipes)


def _answer(process: subprocess.Popen, name: str) -> dict:
    line = process.stdout.readline()
    if not line:
        sys.exit(f"error: the case {name} failed with exit code {process.wait()}; what it said is above.")
    return json.loads(line)


def _end(process: subprocess.Popen) -> None:
    """A process ends with its stdin; one that does not is ended with all that it started."""
    process.stdin.close()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
