"""What the benchmark measures: each case has two ways of the same to time, ours and the naive one, or two of ours."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from benchmark.workloads import (
    QUICK,
    Size,
    adversary,
    augment,
    distill,
    epochs,
    evaluation,
    experts,
    materialize,
    students,
)

NAIVE = "naive"

# Gives what to time, which returns how many samples, epochs or steps it did and, where what it made has a score, what
# gives that once the clock stands.
Prepare = Callable[[Size], Callable[[], int | tuple[int, Callable[[], float]]]]


@dataclass
class Way:
    """One of the two ways of a case."""

    title: str
    prepare: Prepare
    processes: int = 1

    @property
    def keep_freed_memory(self) -> bool:
        """Whether its process does as our scripts do."""
        return self.title != NAIVE


@dataclass
class Case:
    """One line of the first table, where the second way is the naive one, or of the second table."""

    title: str
    unit: str  # "s" for seconds a step, or what is done per second: "samples/s", "networks/s" and so on
    ways: tuple[Way, Way]
    times_as_often: int = 1  # what has to be known to a percent
    needs_data: bool = False


def both(prepare: Callable, **settings) -> tuple[Way, Way]:
    """Ours and the naive way of the same."""
    return Way("ours", partial(prepare, **settings)), Way(NAIVE, partial(prepare, naive=True, **settings))


def two(first: Prepare, second: Prepare) -> tuple[Way, Way]:
    """Two ways, both ours."""
    return Way("first", first), Way("second", second)


def shared_out(prepare: Prepare) -> tuple[Way, Way]:
    """By two processes, which share the threads of one."""
    return Way("first", prepare, processes=2), Way("second", prepare)


def resized(prepare: Prepare, **changes: int) -> Prepare:
    """The same at another size; left alone by --quick."""
    return lambda size: prepare(size if size.width == QUICK.width else replace(size, **changes))


# Ways to store a basis, and steps of as many samples of each.
STORED = {
    "small pixels": {"basis_height": 16, "basis_width": 16},
    "luma and chroma": {"basis_storage": "luma_chroma", "basis_height": 12, "basis_width": 12},
    "frequencies": {"basis_storage": "frequencies", "basis_frequencies": 64},
}
DM_OF_MANY = {"objective": "dm", "network_bank": 1, "bases_per_class": 28}
MTT_OF_MANY = {"bases_per_class": 28, "student_steps": 5, "student_batch_size": 50}


def in_color(prepare: Prepare) -> Prepare:
    """The same on images of 3x32x32."""
    return lambda size: prepare(replace(size, side=32, channels=3))


CASES = {
    "mtt-1": Case("MTT step, 1 basis per class, 50 student steps x 10", "s", both(distill)),
    "mtt-10": Case(
        "MTT step, 10 bases per class, 5 student steps x 100",
        "s",
        both(distill, bases_per_class=10, student_steps=5),
    ),
    "dm": Case("DM step, new network, 256 real images a class", "s", both(distill, objective="dm")),
    "dm-bank": Case(
        "DM step, network bank with cached real means",
        "s",
        (
            Way("ours", partial(distill, objective="dm", network_bank=1)),
            Way(NAIVE, partial(distill, objective="dm", naive=True)),
        ),
    ),
    "dsa": Case("DSA of a batch of 256", "samples/s", both(augment)),
    "student": Case("student training, 10 bases per class, bf16", "samples/s", both(students)),
    "student-fp32": Case("student training, 10 bases per class, float32", "samples/s", both(students, bf16=False)),
    "experts": Case("expert recording, bf16", "samples/s", both(experts)),
    "experts-accuracy": Case(
        "expert, an epoch of 10,000 Fashion-MNIST images, bf16, test accuracy over seeds",
        "samples/s",
        both(experts, real=True),
        needs_data=True,
    ),
    "materialize": Case("materialization, 10 bases per class", "samples/s", both(materialize)),
    "mtt-graph": Case(
        "MTT, 50 student steps: adjoint / full graph", "s", two(distill, partial(distill, unroll="graph"))
    ),
    "mtt-kept": Case(
        "MTT, 50 student steps: convolutions kept in a file / computed twice",
        "s",
        two(distill, partial(distill, kept_megabytes=0)),
    ),
    "mtt-steps": Case(
        "MTT: 100 student steps / 10",
        "s",
        two(partial(distill, student_steps=100), partial(distill, student_steps=10)),
    ),
    "mtt-bases": Case(
        "MTT, 5 student steps: 10 bases per class / 1",
        "s",
        two(partial(distill, bases_per_class=10, student_steps=5), partial(distill, student_steps=5)),
    ),
    "mtt-micro": Case(
        "MTT, 5 student steps x 100: micro-batches of 10 / all at once",
        "s",
        two(
            partial(distill, bases_per_class=10, student_steps=5, micro_batch_size=10),
            partial(distill, bases_per_class=10, student_steps=5),
        ),
    ),
    "mtt-50": Case(
        "MTT, 2 student steps x 500 of 3x32x32, 50 bases per class: micro-batches of 64 / all at once",
        "s",
        two(
            in_color(partial(distill, bases_per_class=50, student_steps=2, micro_batch_size=64)),
            in_color(partial(distill, bases_per_class=50, student_steps=2)),
        ),
    ),
    "adversary": Case(
        "adversary, 50 bases per class of 3x32x32: 256 samples at once / all 1,000",
        "s",
        two(
            resized(partial(adversary, bases_per_class=50), side=32, channels=3),
            resized(partial(adversary, bases_per_class=50, at_once=True), side=32, channels=3),
        ),
    ),
    "mtt-64px": Case(
        "MTT, 5 student steps: 64x64 pixels and ConvNet-4 / 28x28 and ConvNet-3",
        "s",
        two(resized(partial(distill, student_steps=5), side=64, depth=4), partial(distill, student_steps=5)),
    ),
    **{
        f"{objective}-{name.replace(' ', '-')}": Case(
            f"{title}: bases stored as {name} / as pixels of full size",
            "s",
            two(
                in_color(partial(distill, storage=storage, **settings)),
                in_color(partial(distill, storage={}, **settings)),
            ),
            times_as_often=2,
        )
        for objective, title, settings in (
            ("dm", "DM step, network bank, 28 samples a class of 3x32x32", DM_OF_MANY),
            ("mtt", "MTT, 5 student steps x 50 of 28 samples a class of 3x32x32", MTT_OF_MANY),
        )
        for name, storage in STORED.items()
    },
    "pairing": Case(
        "student, bf16: 100 bases with 5 hallucinators / 100 plain images",
        "epochs/s",
        two(epochs, partial(epochs, num_hallucinators=0)),
        times_as_often=4,
    ),
    "materialize-20": Case(
        "materialization: 20 hallucinators / 5",
        "samples/s",
        two(partial(materialize, num_hallucinators=20), materialize),
    ),
    **{
        f"processes{name}": Case(f"{title}: two processes / one of as many threads", unit, shared_out(prepare))
        for name, title, unit, prepare in (
            ("", "two evaluation students, float32", "samples/s", evaluation),
            ("-experts", "two experts, bf16", "samples/s", partial(experts, num_experts=2)),
            ("-dm", "DM, each network a new one", "networks/s", partial(distill, objective="dm")),
            ("-mtt", "MTT, 50 student steps x 10", "trajectories/s", distill),
        )
    },
}
