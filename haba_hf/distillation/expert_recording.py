"""Recording of expert trajectories: networks are trained on the real data, by all processes and machines there are."""

import time
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import SoftFileLease, Timeout
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.augmentation import DsaAugmentation
from ..data.image_data import ImageData
from ..evaluation.training import accuracy
from ..networks import NetworkArguments, build_network
from ..utils.files import atomic_file, check_writable
from ..utils.progress import Progress
from ..utils.seeds import derived_seed, seeded_generator
from .experts import (
    PRECISIONS,
    ExpertArguments,
    count_snapshots,
    expected_header,
    expert_path,
    flat_parameters,
)

# The streams of random numbers of expert i: its weights; its order of images and their augmentation. Student i has 0
# to 2: with the experts' own weights to start from, students would not be fresh networks.
WEIGHTS, TRAINING = 3, 4

# Whoever trains an expert keeps renewing a claim on it, a file beside it. A claim that others did not see renewed for
# so many seconds is theirs to take. Machines so share the work by a shared folder alone; should two of them train the
# same expert after all, both write the same file.
CLAIM_SECONDS = 60.0


def recording_bytes(network: nn.Module, num_snapshots: int, arguments: ExpertArguments) -> int:
    """Bytes that all experts will take on disk."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters * num_snapshots * arguments.num_experts * PRECISIONS[arguments.expert_precision].itemsize


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
    recording = _Recording(data, network_arguments, arguments, num_snapshots, accelerator)
    accelerator.print(
        f"Experts: {arguments.num_experts} x {num_snapshots} snapshots, {recording.bytes / 1e6:,.0f} MB in "
        f"{arguments.experts_dir}"
    )
    missing = [index for index in range(arguments.num_experts) if not recording.has(index)]
    claims = {index: recording.claim(index) for index in missing}
    is_told = False
    while missing:
        for index in missing.copy():
            try:
                with claims[index]:
                    if not recording.has(index):
                        recording.record(index)
            except Timeout:
                continue
            missing.remove(index)
        if missing:
            if not is_told:
                accelerator.print(f"Experts that other processes are training, waited for: {len(missing)}")
                is_told = True
            time.sleep(min(0.2, CLAIM_SECONDS / 4))
    accelerator.wait_for_everyone()
    return [recording.path(index) for index in range(arguments.num_experts)]


class _Recording:
    """
    The experts of one recipe in their folder: which are there, and the training of one that is not.

    Attributes:
        bytes (`int`): what all of them will take on disk.
    """

    def __init__(
        self,
        data: ImageData,
        network_arguments: NetworkArguments,
        arguments: ExpertArguments,
        num_snapshots: int,
        accelerator: Accelerator,
    ):
        self.data = data
        self.network_arguments = network_arguments
        self.arguments = arguments
        self.num_snapshots = num_snapshots
        self.accelerator = accelerator
        self.network = build_network(network_arguments, data.image_shape, data.num_labels, seed=0)
        self.bytes = recording_bytes(self.network, num_snapshots, arguments)
        self.expected = {
            **expected_header(arguments, network_arguments, data),
            "mixed_precision": accelerator.mixed_precision,
        }

    def path(self, index: int) -> Path:
        return expert_path(self.arguments.experts_dir, index)

    def claim(self, index: int) -> SoftFileLease:
        """Held by whoever trains the expert: a file beside its own."""
        path = self.path(index)
        return SoftFileLease(path.with_name(f".{path.name}.claim"), lease_duration=CLAIM_SECONDS, timeout=0)

    def has(self, index: int) -> bool:
        """
        Raises:
            `ValueError`: if the expert there belongs to something else, or has too few snapshots.
        """
        path = self.path(index)
        if not path.exists():
            return False
        if count_snapshots(path, self.expected, self.network) < self.num_snapshots:
            raise ValueError(
                f"{path} holds fewer than the {self.num_snapshots} snapshots this recipe uses: delete it to record "
                "anew, or lower max_start or expert_span."
            )
        return True

    def record(self, index: int) -> None:
        """Trains an expert and writes it in one piece."""
        data = self.data
        seed = derived_seed(self.arguments.expert_seed, index, WEIGHTS)
        expert = build_network(self.network_arguments, data.image_shape, data.num_labels, seed)
        snapshots = _train(expert, data, self.arguments, index, self.num_snapshots, self.accelerator)
        about = {"dataset": data.name}
        if len(data.validation):
            score = accuracy(expert, data.validation.images, data.validation.labels, data.processor)
            about["validation_accuracy"] = f"{score:.4f}"
        with atomic_file(self.path(index)) as aside:
            save_file({"snapshots": snapshots}, aside, self.expected | about)


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
