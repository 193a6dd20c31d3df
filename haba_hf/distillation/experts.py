"""Expert trajectories: networks trained on real data whose parameters are recorded on the way (Cazenavette et al.,
2022).

One safetensors file per expert holds `snapshots` [S, P]: S moments of one network's P parameters, flattened in the
order of `named_parameters()`. Only the S snapshots that the recipe's run can draw are recorded. Its header says what
trained it and, for a reader, the name of the data and the validation accuracy of the last snapshot. They are recorded
by `expert_recording.py`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..data.augmentation import DSA_STRATEGY, DsaAugmentation
from ..data.image_data import ImageData
from ..networks import NetworkArguments, build_network
from ..utils.checks import MOST_SEED, Settings, check_between, check_counts, check_momentum, check_positive
from ..utils.files import check_recorded

PRECISIONS = {"float32": torch.float32, "float16": torch.float16}


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


def expected_header(
    arguments: ExpertArguments, network_arguments: NetworkArguments, data: ImageData
) -> dict[str, str]:
    """What the header of an expert's file says where the expert is of this network, data and training."""
    return {
        "network": network_signature(network_arguments, data.image_shape, data.num_labels),
        "data": data.fingerprint,
        "training": training_signature(arguments),
    }


def expert_path(directory: str | Path, index: int) -> Path:
    return Path(directory) / f"expert-{index:04d}.safetensors"


def flat_parameters(network: nn.Module) -> Tensor:
    """All parameters as one vector [P]."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])


def count_snapshots(path: Path, expected: dict[str, str], network: nn.Module) -> int:
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
        expected = expected_header(arguments, network_arguments, data)
        network = build_network(network_arguments, data.image_shape, data.num_labels, seed=0)
        self.num_snapshots = min(count_snapshots(path, expected, network) for path in self.paths)

    @property
    def mixed_precision(self) -> str:
        """What the experts were trained in: `"no"`, `"bf16"` and so on; if not all in the same, each of them."""
        found = set()
        for path in self.paths:
            with safe_open(path, framework="pt") as file:
                found.add(file.metadata().get("mixed_precision", "unknown"))
        return ", ".join(sorted(found))

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
