"""Expert trajectories: networks trained on real data whose parameters are recorded on the way (Cazenavette et al.,
2022).

One safetensors file per expert holds `snapshots` [S, P]: S moments of one network's P parameters, flattened in the
order of `named_parameters()`. Only the S snapshots that the recipe's run can draw are recorded. Its header says what
trained it and, for a reader, the name of the data and the validation accuracy of the last snapshot.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from filelock import SoftFileLease, Timeout
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.augmentation import DSA_STRATEGY, DsaAugmentation
from ..data.image_data import ImageData
from ..evaluation.training import accuracy
from ..networks import NetworkArguments, build_network
from ..utils.checks import MOST_SEED, Settings, check_between, check_counts, check_momentum, check_positive
from ..utils.files import atomic_file, check_recorded, check_writable
from ..utils.progress import Progress
from ..utils.seeds import derived_seed, seeded_generator

PRECISIONS = {"float32": torch.float32, "float16": torch.float16}

# The streams of random numbers of expert i: its weights; its order of images and their augmentation. Student i has 0
# to 2: with the experts' own weights to start from, students would not be fresh networks.
WEIGHTS, TRAINING = 3, 4

# Whoever trains an expert keeps renewing a claim on it, a file beside it. A claim that others did not see renewed for
# so many seconds is theirs to take. Machines so share the work by a shared folder alone; should two of them train the
# same expert after all, both write the same file.
CLAIM_SECONDS = 60.0


@dataclass
class ExpertArguments(Settings):
    """How experts are recorded. How many snapshots follows from the run: `max_start` + `expert_span`."""

    experts_dir: str = field(
        default="experts", metadata={"help": "Folder of the experts' safetensors files.", "result": False}
    )
    num_experts: int = field(default=10, metadata={"help": "Networks trained on the real data."})
    snapshots_per_epoch: int = field(default=1, metadata={"help": "Snapshots recorded in each epoch, evenly spaced."})
    expert_learning_rate: float = field(default=0.01, metadata={"help": "SGD learning rate of the experts."})
    expert_momentum: float = field(default=0.0, metadata={"help": "SGD momentum of the experts."})
    expert_batch_size: int = field(default=256, metadata={"help": "Real images a step."})
    expert_dsa: str = field(default=DSA_STRATEGY, metadata={"help": "DSA strategy while experts train, or none."})
    expert_precision: Literal["float32", "float16"] = field(
        default="float32", metadata={"help": "Precision of the stored snapshots."}
    )
    expert_seed: int = field(default=0, metadata={"help": "Expert i is initialized and trained from this seed and i."})

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "num_experts", "snapshots_per_epoch", "expert_batch_size")
        check_positive(self, "expert_learning_rate")
        check_momentum(self, "expert_momentum")
        check_between(self, 0, MOST_SEED, "expert_seed")
        DsaAugmentation(self.expert_dsa)  # an unknown operation is refused now


def network_signature(network: NetworkArguments, image_shape: tuple[int, int, int], num_labels: int) -> str:
    """What must agree for two sets of parameters to belong to the same architecture, as one line of JSON."""
    sizes = [network.network_depth, network.network_width] if network.network == "convnet" else []  # only it has them
    return json.dumps([network.network, *sizes, list(image_shape), num_labels])


def training_signature(arguments: ExpertArguments) -> str:
    """How an expert was trained, as one line of JSON; the precision of its arithmetic is told apart."""
    return json.dumps(
        {
            "snapshots_per_epoch": arguments.snapshots_per_epoch,
            "learning_rate": arguments.expert_learning_rate,
            "momentum": arguments.expert_momentum,
            "batch_size": arguments.expert_batch_size,
            "dsa": arguments.expert_dsa,
            "precision": arguments.expert_precision,
            "seed": arguments.expert_seed,
        },
        sort_keys=True,
    )


def expert_path(directory: str | Path, index: int) -> Path:
    return Path(directory) / f"expert-{index:04d}.safetensors"


def recording_bytes(network: nn.Module, num_snapshots: int, arguments: ExpertArguments) -> int:
    """Bytes that all experts will take on disk."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters * num_snapshots * arguments.num_experts * PRECISIONS[arguments.expert_precision].itemsize


def flat_parameters(network: nn.Module) -> Tensor:
    """All parameters as one vector [P]."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


def record_experts(
    data: ImageData,
    network_arguments: NetworkArguments,
    arguments: ExpertArguments,
    num_snapshots: int,
    accelerator: Accelerator,
) -> list[Path]:
    """
    Trains the experts that are missing in `experts_dir` and writes each when it is complete.

    The processes of this run, and of any other that records into the folder on this machine or another, take the next
    missing expert that none of them has claimed. An expert whose process was killed is trained again by another.

    Args:
        num_snapshots (`int`): S; recording stops when they are taken.

    Returns:
        The paths of all experts. Files already there are kept if they are of the same network, data and training.

    Raises:
        `ValueError`: if a file there belongs to something else, or an epoch has fewer steps than snapshots.
        `FloatingPointError`: if an expert's loss or parameters become NaN or infinite.
        `OSError`: if the folder cannot be written.
    """
    if accelerator.is_main_process:
        check_writable(arguments.experts_dir)
    accelerator.wait_for_everyone()
    network = build_network(network_arguments, data.image_shape, data.num_labels, seed=0)
    size = recording_bytes(network, num_snapshots, arguments)
    accelerator.print(
        f"Experts: {arguments.num_experts} x {num_snapshots} snapshots, {size / 1e6:,.0f} MB in "
        f"{arguments.experts_dir}"
    )
    paths = [expert_path(arguments.experts_dir, index) for index in range(arguments.num_experts)]
    expected = {
        "network": network_signature(network_arguments, data.image_shape, data.num_labels),
        "data": data.fingerprint,
        "training": training_signature(arguments),
        "mixed_precision": accelerator.mixed_precision,
    }

    def check(path: Path) -> None:
        if _count_snapshots(path, expected, network) < num_snapshots:
            raise ValueError(
                f"{path} holds fewer than the {num_snapshots} snapshots this recipe uses: delete it to record "
                "anew, or lower max_start or expert_span."
            )

    def record(path: Path, index: int) -> None:
        seed = derived_seed(arguments.expert_seed, index, WEIGHTS)
        expert = build_network(network_arguments, data.image_shape, data.num_labels, seed)
        snapshots = _train(expert, data, arguments, index, num_snapshots, accelerator)
        about = {"dataset": data.name}
        if len(data.validation):
            score = accuracy(expert, data.validation.images, data.validation.labels, data.processor)
            about["validation_accuracy"] = f"{score:.4f}"
        with atomic_file(path) as aside:
            save_file({"snapshots": snapshots}, aside, expected | about)

    missing = {}
    for index, path in enumerate(paths):
        if path.exists():
            check(path)
        else:
            missing[path] = index
    claims = {
        path: SoftFileLease(path.with_name(f".{path.name}.claim"), lease_duration=CLAIM_SECONDS, timeout=0)
        for path in missing
    }
    is_told = False
    while missing:
        for path, index in list(missing.items()):
            try:
                with claims[path]:
                    if not path.exists():
                        record(path, index)
            except Timeout:
                continue
            check(path)
            del missing[path]
        if missing:
            if not is_told:
                accelerator.print(f"Experts that other processes are training, waited for: {len(missing)}")
                is_told = True
            time.sleep(min(1.0, CLAIM_SECONDS / 4))
    accelerator.wait_for_everyone()
    return paths


def _train(
    network: nn.Module,
    data: ImageData,
    arguments: ExpertArguments,
    index: int,
    num_snapshots: int,
    accelerator: Accelerator,
) -> Tensor:
    device = accelerator.device
    network.to(device)
    labels = data.train.labels.to(device)
    generator = seeded_generator(arguments.expert_seed, index, TRAINING)
    augmentation = DsaAugmentation(arguments.expert_dsa)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=arguments.expert_learning_rate, momentum=arguments.expert_momentum
    )
    dtype = PRECISIONS[arguments.expert_precision]
    snapshots = [flat_parameters(network).to("cpu", dtype)]
    steps_per_epoch = -(-len(labels) // arguments.expert_batch_size)
    if arguments.snapshots_per_epoch > steps_per_epoch:
        raise ValueError(
            f"snapshots_per_epoch is {arguments.snapshots_per_epoch}, but an epoch has only {steps_per_epoch} steps."
        )
    shown = accelerator.is_local_main_process
    with Progress(f"expert {index}", num_snapshots - 1, "snapshot", shown=shown) as progress:
        while len(snapshots) < num_snapshots:
            taken = 0
            for step, batch in enumerate(
                torch.randperm(len(labels), generator=generator).split(arguments.expert_batch_size)
            ):
                batch = batch.to(device)
                x = augmentation(data.normalized(batch, device), generator)
                with accelerator.autocast():
                    loss = F.cross_entropy(network(x), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if (step + 1) * arguments.snapshots_per_epoch // steps_per_epoch > taken:
                    taken += 1
                    snapshot = flat_parameters(network).to("cpu", dtype)
                    if not (torch.isfinite(loss) and torch.isfinite(snapshot).all()):
                        raise FloatingPointError(
                            f"Expert {index} diverged (loss {loss.item()}): lower expert_learning_rate, now "
                            f"{arguments.expert_learning_rate}."
                        )
                    snapshots.append(snapshot)
                    progress.update(loss=loss.item())
                    if len(snapshots) == num_snapshots:
                        break
    return torch.stack(snapshots)


def _count_snapshots(path: Path, expected: dict[str, str], network: nn.Module) -> int:
    """S of an expert file, after checking that it is whole and belongs here."""
    shapes = {"snapshots": (None, sum(parameter.numel() for parameter in network.parameters()))}
    return check_recorded(path, expected, shapes, "an expert file", "experts_dir")["snapshots"][0]


class ExpertStore:
    """
    Recorded experts, read snapshot by snapshot.

    Args:
        arguments ([`ExpertArguments`]): the folder and the number of experts; more in the folder are left alone.
        network_arguments, data: what the experts must belong to. They must have been trained as `arguments` say, in
            whatever precision.

    Raises:
        `FileNotFoundError`: if the folder holds fewer experts.
        `ValueError`: if an expert is damaged, or of another network, data set or training.
    """

    def __init__(self, arguments: ExpertArguments, network_arguments: NetworkArguments, data: ImageData):
        self.paths = [expert_path(arguments.experts_dir, index) for index in range(arguments.num_experts)]
        found = sum(path.exists() for path in self.paths)
        if found < len(self.paths):
            raise FileNotFoundError(
                f"{arguments.experts_dir} holds {found} of the {len(self.paths)} experts (num_experts): record "
                "them by haba experts (training/record_experts.py) and the same recipe."
            )
        expected = {
            "network": network_signature(network_arguments, data.image_shape, data.num_labels),
            "data": data.fingerprint,
            "training": training_signature(arguments),
        }
        network = build_network(network_arguments, data.image_shape, data.num_labels, seed=0)
        self.num_snapshots = min(_count_snapshots(path, expected, network) for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def snapshots(self, expert: int, *moments: int) -> list[Tensor]:
        """Parameters [P] (float32, CPU) of one expert at the given moments."""
        with safe_open(self.paths[expert], framework="pt") as file:
            rows = file.get_slice("snapshots")
            return [rows[moment : moment + 1][0].float() for moment in moments]

    def draw(self, max_start: int, span: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random expert's parameters at t ~ U{0..max_start-1} and at t + span."""
        expert = int(torch.randint(len(self.paths), (), generator=generator))
        start = int(torch.randint(max_start, (), generator=generator))
        first, last = self.snapshots(expert, start, start + span)
        return first, last
