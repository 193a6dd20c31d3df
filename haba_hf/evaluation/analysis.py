"""What is asked of an artifact beside the table of results."""

from dataclasses import dataclass, field

from ..networks import check_network_name


@dataclass
class AnalysisArguments:
    """Students of other architectures, corrupted test images, and the embedding of samples beside real images."""

    architectures: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Networks whose students evaluate.py compares, in place of the table of results; by default none. "
            "Each is trained at the same learning rate.",
            "result": False,
        },
    )
    corruptions_dir: str | None = field(
        default=None,
        metadata={
            "help": "Unpacked folder of CIFAR-10-C (.npy files); by default the images scored on are corrupted here.",
            "result": False,
        },
    )
    corruption_images: int | None = field(
        default=None,
        metadata={
            "help": "Images scored on under each corruption, stratified by class; by default all.",
            "result": False,
        },
    )
    embedded_classes: list[int] = field(
        default_factory=lambda: [0], metadata={"help": "Classes embedded, by number.", "result": False}
    )
    embedded_images: int = field(
        default=200, metadata={"help": "Real images of each class embedded beside the samples.", "result": False}
    )
    perplexity: float = field(
        default=30.0, metadata={"help": "t-SNE: neighbours that a point is held close to.", "result": False}
    )

    def __post_init__(self):
        for name in self.architectures:
            check_network_name(name)
        if self.corruption_images is not None and self.corruption_images < 1:
            raise ValueError(f"corruption_images must be at least 1, got {self.corruption_images}.")
        if not self.embedded_classes:
            raise ValueError("embedded_classes names no class: give at least one number.")
        if self.embedded_images < 1 or not self.perplexity > 0:
            raise ValueError(
                f"embedded_images and perplexity must be positive, got {self.embedded_images} and {self.perplexity}."
            )
