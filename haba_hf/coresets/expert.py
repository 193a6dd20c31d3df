"""The expert that coresets are chosen by, and images pruned: a network trained once on the whole training split, whose
features, losses and forgetting events are recorded in one file.

Shape legend: n training images, N images of one class, D features, B batch, L classes.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ..data import ImageData
from ..data.augmentation import DSA_STRATEGY, DsaAugmentation
from ..data.splits import images_at_once
from ..networks import FeatureNetwork, NetworkArguments, build_feature_network
from ..utils.checks import Settings, check_counts, check_positive
from ..utils.files import atomic_file, check_recorded, check_writable
from ..utils.progress import Progress
from ..utils.seeds import derived_seed, seeded_generator
from .rules import ForgettingEvents

# The independent streams of the expert: its weights; its order of images and their augmentation.
WEIGHTS, TRAINING = range(2)
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # as students are trained
EVENTS, LOSSES = "forgetting_events", "losses"  # tensors of its file


@dataclass
class CoresetArguments(Settings):
    """Which coreset of `bases_per_class` images per class, and the expert by which it is chosen, or images pruned."""

    coreset: Literal["random", "herding", "k_center", "forgetting"] = field(
        default="random", metadata={"help": "How real images are chosen; random alone needs no expert."}
    )
    coreset_epochs: int = field(default=50, metadata={"help": "Epochs of the coreset's expert on the training split."})
    coreset_learning_rate: float = field(
        default=0.01, metadata={"help": "SGD learning rate of that expert (momentum 0.9)."}
    )
    coreset_batch_size: int = field(default=256, metadata={"help": "Real images a step of that expert."})
    coreset_dsa: str = field(
        default=DSA_STRATEGY, metadata={"help": "DSA strategy while that expert trains, or none."}
    )
    coreset_dir: str = field(
        default="coresets",
        metadata={
            "help": "Folder of that expert's features, losses and forgetting events; coresets and pruning of one data "
            "set share it.",
            "result": False,
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "coreset_epochs", "coreset_batch_size")
        check_positive(self, "coreset_learning_rate")
        DsaAugmentation(self.coreset_dsa)  # an unknown operation is refused now


def record_expert_features(
    data: ImageData,
    network_arguments: NetworkArguments,
    arguments: CoresetArguments,
    seed: int,
    accelerator: Accelerator,
) -> Path:
    """
    Trains the expert on the whole training split and writes `coreset_dir/expert-features.safetensors`: for each class
    the features `[N, D]` of its images in order, of all images their losses `[n]` (cross-entropy; both float32, not
    augmented, after the last epoch), and the forgetting events `[n]` counted on the augmented images of every step
    before its update.

    Returns:
        The file's path. One that is already there is kept if it is of the same network, data and training.

    Raises:
        `ValueError`: if it is of something else, or damaged.
        `OSError`: if the folder cannot be written.
        `FloatingPointError`: if the loss or a feature becomes NaN or infinite.
    """
    path = Path(arguments.coreset_dir) / "expert-features.safetensors"
    expected = {
        "network": json.dumps([asdict(network_arguments), list(data.image_shape), data.num_labels], sort_keys=True),
        "data": data.fingerprint,
        "training": json.dumps(
            {
                "epochs": arguments.coreset_epochs,
                "learning_rate": arguments.coreset_learning_rate,
                "batch_size": arguments.coreset_batch_size,
                "dsa": arguments.coreset_dsa,
                "mixed_precision": accelerator.mixed_precision,
                "seed": seed,
            },
            sort_keys=True,
        ),
    }
    if path.exists():
        shapes: dict[str, tuple[int | None, ...]] = dict.fromkeys((EVENTS, LOSSES), (len(data.train),))
        counts = map(len, data.train.of_classes(data.num_labels))
        shapes |= {features_of(label): (count, None) for label, count in enumerate(counts)}
        check_recorded(path, expected, shapes, "the file of a coreset's expert", "coreset_dir")
        return path
    check_writable(arguments.coreset_dir)
    started = time.perf_counter()
    seed_of_weights = derived_seed(seed, WEIGHTS)
    network = build_feature_network(network_arguments, data.image_shape, data.num_labels, seed_of_weights)
    events_n = _train(network, data, arguments, seeded_generator(seed, TRAINING), accelerator)
    tensors, losses_n = {}, torch.empty(len(data.train))
    for label, rows in enumerate(data.train.of_classes(data.num_labels)):
        tensors[features_of(label)], losses_n[rows] = _features_and_losses(network, data, rows, accelerator)
    if not all(values.isfinite().all() for values in (*tensors.values(), losses_n)):
        raise _divergence(arguments, arguments.coreset_epochs)
    header = {**expected, "seconds": str(time.perf_counter() - started)}
    with atomic_file(path) as aside:
        save_file({**tensors, EVENTS: events_n, LOSSES: losses_n}, aside, header)
    return path


def features_of(label: int) -> str:
    """The tensor's name; one for each class, so that no more than a class is read at a time."""
    return f"features.{label}"


def _train(
    network: FeatureNetwork,
    data: ImageData,
    arguments: CoresetArguments,
    generator: torch.Generator,
    accelerator: Accelerator,
) -> Tensor:
    """Trains the expert in place and returns the forgetting events `[n]` of its training."""
    device = accelerator.device
    network.to(device).train()
    labels = data.train.labels.to(device)
    augmentation = DsaAugmentation(arguments.coreset_dsa)
    optimizer = torch.optim.SGD(
        network.parameters(), arguments.coreset_learning_rate, MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    events = ForgettingEvents(len(labels), device)
    with Progress("expert", arguments.coreset_epochs, "epoch", shown=accelerator.is_main_process) as progress:
        for epoch in range(arguments.coreset_epochs):
            losses = []
            for rows_B in torch.randperm(len(labels), generator=generator).split(arguments.coreset_batch_size):
                rows_B = rows_B.to(device)
                images_BCHW = augmentation(data.normalized(rows_B, device), generator)
                with accelerator.autocast():
                    logits_BL = network(images_BCHW)
                    loss = F.cross_entropy(logits_BL, labels[rows_B])
                events.update(rows_B, logits_BL.argmax(dim=1) == labels[rows_B])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            if not torch.stack(losses).isfinite().all():
                raise _divergence(arguments, epoch + 1)
            progress.update()
    return events.counts()


@torch.no_grad()
def _features_and_losses(
    network: FeatureNetwork, data: ImageData, rows: Tensor, accelerator: Accelerator
) -> tuple[Tensor, Tensor]:
    """Features `[N, D]` and losses `[N]` of some training images, on the CPU."""
    network.eval()
    device = accelerator.device
    features, losses = [], []
    for rows_B in rows.split(images_at_once(data.train.images.shape)):
        with accelerator.autocast():
            features_BD = network.features(data.normalized(rows_B, device))
            logits_BL = network.classifier(features_BD)
        losses_B = F.cross_entropy(logits_BL.float(), data.train.labels[rows_B].to(device), reduction="none")
        features.append(features_BD.float().cpu())
        losses.append(losses_B.cpu())
    return torch.cat(features), torch.cat(losses)


def _divergence(arguments: CoresetArguments, epoch: int) -> FloatingPointError:
    return FloatingPointError(
        f"The coreset's expert diverged in epoch {epoch} of {arguments.coreset_epochs}: lower "
        f"coreset_learning_rate, now {arguments.coreset_learning_rate:g}."
    )
