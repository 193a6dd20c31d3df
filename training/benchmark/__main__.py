"""Measure this machine's CPU: ours against a naive implementation, how ours grows, how near convolutions come to the
machine's peak, and how long a start takes.

    python training/benchmark                      # or: make benchmark
    python training/benchmark --width 64 --cases mtt-1 mtt-graph
    python training/benchmark --data_dir path/to/fashion_mnist  # with the accuracy of experts

Images are random numbers, so nothing is downloaded; experts' accuracy alone needs Fashion-MNIST's parquet files. Two
ways of the same work have a process each, so that its peak of memory is its own; they take turns, so that what else
the machine does meets both alike. The naive way runs as a plain script would, ours as our scripts do, which tell glibc
to keep freed memory.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark import machine
from benchmark.cases import CASES, NAIVE, QUICK, Size
from benchmark.turns import Measured, measure, run_in_turns


def table(head: tuple[str, str, str], measured: dict[str, list[Measured]]) -> str:
    """A line for each case: both ways, the ratio of their times, and their peak memory."""
    what, one, other = head
    lines = [f"| {what} | {one}: median (least to most) | {other} | time, {one} / {other} | peak memory (MB) |"]
    lines.append("|---|---|---|---|---|")
    for name, (first, second) in measured.items():
        ratio, peaks = f"{first.seconds / second.seconds:.2f}", f"{first.peak:,.0f} / {second.peak:,.0f}"
        lines.append(f"| {CASES[name].title} | {first} | {second} | {ratio} | {peaks} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=128, help="width of the ConvNet-3 for 28x28 images (128)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of every case (3)")
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--data_dir", help="folder of Fashion-MNIST's parquet files, for the accuracy of experts")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one run: shows that it works")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = replace(QUICK if arguments.quick else Size(width=arguments.width), data_dir=arguments.data_dir)
    if arguments.measure == ["peak", "0"]:
        return machine.measure_peak()
    if arguments.measure:
        return measure(arguments.measure[0], int(arguments.measure[1]), size)
    if arguments.data_dir is None and any(CASES[name].needs_data for name in arguments.cases or []):
        parser.error(f"{' and '.join(arguments.cases)} need --data_dir, a folder of Fashion-MNIST's parquet files.")

    facts, repeats = machine.facts(), 1 if arguments.quick else arguments.repeats
    measured = {}
    for name in arguments.cases or [name for name, case in CASES.items() if arguments.data_dir or not case.needs_data]:
        measured[name], of_process = run_in_turns(name, sys.argv[1:], repeats)
    compared = {name: ways for name, ways in measured.items() if CASES[name].ways[1].title == NAIVE}
    grown = {name: ways for name, ways in measured.items() if name not in compared}

    print(f"{facts}, torch {of_process['torch']} with {of_process['threads']} threads.")
    print(f"ConvNet-{size.depth} of width {size.width}, {size.side}x{size.side}. Runs of each: {repeats}, in turns.")
    if compared:
        print("\n" + table(("what", "ours", "naive"), compared))
    if grown:
        print("\n" + table(("first / second", "first", "second"), grown))
    if not (arguments.cases or arguments.quick):
        print("\n" + machine.peak_table(Path(__file__)))
        print("\n" + machine.start_table())
    print(
        "\nA step includes the adversary's. Memory is what a run adds to its process; MTT keeps its trajectory in a "
        "temporary file beside it."
    )


if __name__ == "__main__":
    main()
