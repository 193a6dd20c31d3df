"""What a [`HabaModel`] tells: samples, and what they cost to store.

Shape legend: P pairs (basis, hallucinator) or samples, C/H/W of a sample, L classes.
"""

from dataclasses import dataclass, field

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class HabaOutput(ModelOutput):
    """
    Samples and where they come from.

    Args:
        samples (`torch.FloatTensor` of shape `[P, C, H, W]`): in the model's space (as images are normalized).
        labels (`torch.LongTensor` `[P]` or, soft, `torch.FloatTensor` `[P, L]` whose rows sum to 1).
        basis_ids (`torch.LongTensor` of shape `[P]`).
        hallucinator_ids (`torch.LongTensor` of shape `[P]`, `None` without hallucinators).
        formation_ids (`torch.LongTensor` of shape `[P]`, `None` without multi-formation): which tile, row by row.
    """

    samples: Tensor | None = None
    labels: Tensor | None = None
    basis_ids: Tensor | None = None
    hallucinator_ids: Tensor | None = None
    formation_ids: Tensor | None = None


@dataclass(frozen=True)
class StorageReport:
    """
    What an artifact stores. Numbers are counted as floats, of however many bits they are.

    Args:
        parts (`dict[str, int]`): floats of `bases`, `hallucinators`, `labels`, `student_learning_rate` and, if
            there are any, `step_sizes`, `basis_scales` of bases in 8 bits, and the processor's `whitening`.
        floats_per_image_per_class (`int`): L x C x H x W, what one plain image per class takes.
        bytes_per_number (`dict[str, int]`, *optional*): what a number of a part takes, 4 where it is not named.
    """

    parts: dict[str, int]
    floats_per_image_per_class: int
    bytes_per_number: dict[str, int] = field(default_factory=dict)

    @property
    def floats(self) -> int:
        return sum(self.parts.values())

    @property
    def bytes(self) -> int:
        return sum(self.part_bytes.values())

    @property
    def part_bytes(self) -> dict[str, int]:
        return {part: floats * self.bytes_per_number.get(part, 4) for part, floats in self.parts.items()}

    @property
    def images_per_class(self) -> float:
        """
        Plain images per class (IPC) that take the storage of all parts but the whitening, which plain images in the
        same space would need as well.
        """
        return (self.floats - self.whitening_floats) / self.floats_per_image_per_class

    @property
    def whitening_floats(self) -> int:
        return self.parts.get("whitening", 0)
