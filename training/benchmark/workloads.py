"""The work that the benchmark times, each function preparing ours or the naive way of it at a given size."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

# torch and haba_hf are imported in the functions that a case's process calls: a new process begins with the peak
# memory of the one that started it, which therefore has to be small.

HALLUCINATORS = 5


@dataclass
class Size:
    """What a case is measured on."""

    classes: int = 10
    side: int = 28
    channels: int = 1
    depth: int = 3
    width: int = 128
    student_epochs: int = 8
    real_batch_size: int = 256
    student_steps: int = 50
    bank_steps: int = 5
    materializations: int = 20
    expert_images: int = 2560
    data_dir: str | None = None
    data_images: int = 10_000
    device: str = "cpu"


QUICK = Size(
    side=8,
    depth=2,
    width=4,
    student_epochs=2,
    real_batch_size=4,
    student_steps=3,
    bank_steps=2,
    expert_images=32,
    data_images=200,
)


def artifact(size: Size, bases_per_class: int = 10, num_hallucinators: int = HALLUCINATORS, **storage):
    """An artifact of random numbers."""
    import torch

    from haba_hf import HabaConfig, HabaModel

    torch.manual_seed(0)
    sample = {"sample_channels": size.channels, "sample_height": size.side, "sample_width": size.side}
    budget = {"bases_per_class": bases_per_class, "num_hallucinators": num_hallucinators}
    return HabaModel(HabaConfig(num_labels=size.classes, **budget, **sample, **storage))


def random_data(size: Size, images_per_class: int):
    """Random images as real data."""
    import torch

    from haba_hf.artifact.processing_haba import HabaImageProcessor
    from haba_hf.data import ImageData, Split

    torch.manual_seed(0)
    labels = torch.arange(size.classes).repeat(images_per_class)
    images = torch.randint(256, (len(labels), size.channels, size.side, size.side), dtype=torch.uint8)
    split = Split(images, labels)
    return ImageData(
        name="random",
        train=split,
        validation=split,
        test=None,
        class_names=[str(label) for label in range(size.classes)],
        processor=HabaImageProcessor(
            {"height": size.side, "width": size.side},
            size.channels,
            image_mean=[0.5] * size.channels,
            image_std=[0.29] * size.channels,
        ),
        fingerprint="random",
    )


def convnet(size: Size):
    from haba_hf.networks import NetworkArguments

    return NetworkArguments(network_depth=size.depth, network_width=size.width)


def accelerator_of(size: Size, bf16: bool = False):
    """Of this process, one of those of its way, on the device."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=size.device == "cpu", mixed_precision="bf16" if bf16 else "no")


@contextmanager
def shared_folder(accelerator) -> Iterator[str]:
    """A temporary folder, the same for all processes of a way; without an accelerator there is one."""
    from accelerate.utils import broadcast_object_list

    with tempfile.TemporaryDirectory() as directory:
        names = [directory]
        if accelerator is not None:
            broadcast_object_list(names)
        yield names[0]
        if accelerator is not None:
            accelerator.wait_for_everyone()


def students(size: Size, naive: bool = False, num_hallucinators: int = HALLUCINATORS, bf16: bool = True):
    """Epochs of a student of 10 bases per class."""
    import torch

    from benchmark.naive import NativeConvNet, samples_one_by_one
    from haba_hf.artifact.pairing import materialize_if_small, paired_batches
    from haba_hf.data.augmentation import DsaAugmentation
    from haba_hf.evaluation import train_by_sgd
    from haba_hf.networks import build_network

    model = artifact(size, num_hallucinators=num_hallucinators).to(size.device)
    network = build_network(convnet(size), model.config.sample_shape, size.classes, seed=0)
    generator = torch.Generator().manual_seed(0)
    batch_size = 256

    @torch.no_grad()
    def one_by_one(epoch: int):
        for bases in torch.randperm(model.config.num_bases, generator=generator).split(batch_size):
            drawn = torch.randint(HALLUCINATORS, bases.shape, generator=generator)
            yield samples_one_by_one(model, bases * HALLUCINATORS + drawn)

    def run() -> int:
        materialized = None if naive else materialize_if_small(model)
        train_by_sgd(
            NativeConvNet(network) if naive else network,
            one_by_one if naive else (lambda epoch: paired_batches(model, batch_size, generator, materialized)),
            size.student_epochs,
            learning_rate=0.01,
            augmentation=DsaAugmentation(),
            generator=generator,
            device=size.device,
            autocast=partial(torch.autocast, size.device, torch.bfloat16) if bf16 and not naive else nullcontext,
        )
        return size.student_epochs * model.config.num_bases

    return run


def epochs(size: Size, num_hallucinators: int = HALLUCINATORS):
    """The same, counted in epochs: five times as many, for what is done once before them."""
    size = replace(size, student_epochs=5 * size.student_epochs)
    train = students(size, num_hallucinators=num_hallucinators)

    def run() -> int:
        train()
        return size.student_epochs

    return run


def evaluation(size: Size):
    """Two students of an evaluation, shared out among the processes."""
    import torch

    from haba_hf.artifact.processing_haba import HabaImageProcessor
    from haba_hf.data import Split
    from haba_hf.evaluation import EvaluationArguments, evaluate_artifact
    from haba_hf.runs import start_accelerator

    model, accelerator = artifact(size), start_accelerator()
    arguments = EvaluationArguments(
        evaluation_seeds=2, student_epochs=size.student_epochs, evaluation_learning_rate=0.01
    )
    split = Split(torch.zeros(size.classes, *model.config.sample_shape, dtype=torch.uint8), torch.arange(size.classes))
    _, height, width = model.config.sample_shape
    processor = HabaImageProcessor({"height": height, "width": width}, 1, image_mean=[0.5], image_std=[0.29])

    def run() -> int:
        evaluate_artifact(model, split, processor, convnet(size), arguments, seed=0, accelerator=accelerator)
        return 2 * size.student_epochs * model.config.num_bases

    return run


class RandomExperts:
    """In place of recorded experts: random parameters, whose values do not change what a step costs."""

    num_snapshots = 4

    def __init__(self, ends):
        self.ends = ends

    def draw(self, max_start, span, generator):
        return self.ends


def distill(
    size: Size,
    objective: str = "mtt",
    naive: bool = False,
    bases_per_class: int = 1,
    storage: dict | None = None,
    **settings,
):
    """
    Whole steps of Algorithm 1, with the adversary, counted once for every process, which has a network or a trajectory
    of its own; with `storage`, of bases alone that are stored so.
    """
    import torch

    from benchmark.naive import NaiveDistributionMatching, NaiveTrajectoryMatching
    from haba_hf.distillation import Distiller, TrajectoryMatching
    from haba_hf.networks import build_network
    from haba_hf.recipes import parse_recipe
    from haba_hf.runs import build_objective

    data, network_arguments = random_data(size, size.real_batch_size), convnet(size)
    sizes = {"real_batch_size": size.real_batch_size, "student_steps": size.student_steps}
    fields = {"objective": objective} | sizes | settings
    recipe = parse_recipe([f"--{name}={value}" for name, value in fields.items()])
    arguments = recipe.distillation
    if objective == "dm" and naive:
        matching = NaiveDistributionMatching(network_arguments, arguments, recipe.distribution_matching)
    elif objective != "mtt":
        matching = build_objective(replace(recipe, network=network_arguments), data)
    else:
        network = build_network(network_arguments, data.image_shape, size.classes, seed=0)
        experts = RandomExperts(torch.randn(2, sum(parameter.numel() for parameter in network.parameters())) / 100)
        kind = NaiveTrajectoryMatching if naive else TrajectoryMatching
        matching = kind(experts, network_arguments, arguments, recipe.trajectory_matching)
    stored = {} if storage is None else {"num_hallucinators": 0, **storage}
    model, accelerator = artifact(size, bases_per_class, **stored), accelerator_of(size)
    sections = arguments, recipe.adversary, network_arguments
    distiller = Distiller(model, matching, *sections, data, accelerator, settings={})
    steps = size.bank_steps if recipe.distribution_matching.network_bank else 1

    def run() -> int:
        for _ in range(steps):
            distiller.step()
        return steps * accelerator.num_processes

    return run


def adversary(size: Size, bases_per_class: int, at_once: bool = False):
    """A step of the adversary alone; `at_once`, all samples in one pass."""
    import torch

    from benchmark.naive import AdversaryAtOnce
    from haba_hf.distillation.adversary import Adversary, AdversaryArguments
    from haba_hf.distillation.arguments import DistillationArguments

    kind = AdversaryAtOnce if at_once else Adversary
    sections = convnet(size), DistillationArguments(), AdversaryArguments()
    player = kind(*sections, random_data(size, 1), accelerator_of(size))
    model, generator = artifact(size, bases_per_class), torch.Generator().manual_seed(0)

    def run() -> int:
        player.backward(model, generator)
        return 1

    return run


def experts(size: Size, naive: bool = False, real: bool = False, bf16: bool = True, num_experts: int = 1):
    """
    An epoch of each expert, shared out among the processes; of real images, each run that of another seed, and its
    accuracy on the test images.
    """
    import torch

    from benchmark.naive import train_on_real
    from haba_hf.distillation import ExpertArguments, ExpertStore, record_experts
    from haba_hf.evaluation.training import accuracy
    from haba_hf.networks import build_network
    from haba_hf.utils.seeds import derived_seed

    data = fashion_mnist(size) if real else random_data(size, size.expert_images // size.classes)
    accelerator = None if naive else accelerator_of(size, bf16)
    settings = {"expert_learning_rate": 0.1, "expert_batch_size": 64} if real else {}
    seeds = count()

    def run() -> int | tuple[int, Callable[[], float]]:
        with shared_folder(accelerator) as directory:
            arguments = ExpertArguments(directory, num_experts, expert_seed=next(seeds), **settings)
            seed = derived_seed(arguments.expert_seed, 0)
            network = build_network(convnet(size), data.image_shape, size.classes, seed)
            if naive:
                recipe = arguments.expert_batch_size, arguments.expert_learning_rate, seed
                train_on_real(network, data.train.images, data.train.labels, data.processor, *recipe)
            else:
                record_experts(data, convnet(size), arguments, 2, accelerator)
                (parameters,) = ExpertStore(arguments, convnet(size), data).snapshots(0, 1)
                torch.nn.utils.vector_to_parameters(parameters, network.parameters())
        if not real:
            return num_experts * len(data.train)
        return len(data.train), lambda: accuracy(network, data.test.images, data.test.labels, data.processor)

    return run


def fashion_mnist(size: Size):
    """Some training images of Fashion-MNIST, and all of its test images."""
    from haba_hf.data import DataArguments, load_image_data

    of = {"dataset": "fashion_mnist", "data_dir": size.data_dir, "max_train_samples": size.data_images}
    return load_image_data(DataArguments(**of))


def augment(size: Size, naive: bool = False):
    """DSA of a batch, each image its own magnitudes."""
    import torch

    from haba_hf.data.augmentation import DsaAugmentation

    augmentation, images = DsaAugmentation(), torch.randn(256, 1, size.side, size.side)
    generator = torch.Generator().manual_seed(0)

    def run() -> int:
        for _ in range(60):
            drawn = augmentation.draw(len(images), generator)
            if naive:
                rows = [slice(row, row + 1) for row in range(len(images))]
                torch.cat([augmentation.apply(images[row], drawn.of(row)) for row in rows])
            else:
                augmentation.apply(images, drawn)
        return 60 * len(images)

    return run


def materialize(size: Size, naive: bool = False, num_hallucinators: int = HALLUCINATORS):
    """All samples of an artifact of 10 bases per class."""
    import torch

    from benchmark.naive import samples_one_by_one

    model = artifact(size, num_hallucinators=num_hallucinators)

    @torch.no_grad()
    def run() -> int:
        for _ in range(1 if naive else size.materializations):
            samples_one_by_one(model, torch.arange(model.config.num_samples)) if naive else model.materialize()
        return (1 if naive else size.materializations) * model.config.num_samples

    return run
