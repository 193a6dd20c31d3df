"""Which real data to load: the data sets known by name, and the section of a recipe."""

from dataclasses import dataclass, field

from ..utils.checks import MOST_PIXELS, MOST_SEED, check_between, check_counts
from .imagenet import HUB_ID, IMAGENET_SUBSETS
from .speech import MINI_WORDS, SpeechArguments


@dataclass
class NamedDataset:
    """
    A data set known by name: its Hub id and what `load_dataset` needs beside it, the channel statistics that papers
    publish for it, its label column where it has several, and the words of a speech set.
    """

    hub_id: str | None
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    hub_options: dict[str, str] = field(default_factory=dict)
    words: list[str] | None = None
    label_column: str | None = None


NAMED_DATASETS = {
    "digits": NamedDataset(None),
    "mnist": NamedDataset("ylecun/mnist", [0.1307], [0.3081]),
    "fashion_mnist": NamedDataset("zalando-datasets/fashion_mnist", [0.2861], [0.3530]),
    "cifar10": NamedDataset("uoft-cs/cifar10", [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    # The published code takes the statistics of CIFAR-10.
    "cifar100": NamedDataset(
        "uoft-cs/cifar100", [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010], label_column="fine_label"
    ),
    "svhn": NamedDataset(
        "ufldl-stanford/svhn",
        [0.4377, 0.4438, 0.4728],
        [0.1980, 0.2010, 0.1970],
        hub_options={"name": "cropped_digits"},
    ),
    **{name: NamedDataset(HUB_ID, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) for name in IMAGENET_SUBSETS},
    # The Hub's own conversion: `datasets` no longer runs the script that the repository itself holds.
    "mini_speech_commands": NamedDataset(
        "google/speech_commands",
        hub_options={"name": "v0.02", "revision": "refs/convert/parquet"},
        words=MINI_WORDS,
    ),
}


@dataclass
class DataArguments(SpeechArguments):
    """Which real data to load, and how it is split."""

    dataset: str = field(
        default="digits",
        metadata={
            "help": f"A named data set ({', '.join(NAMED_DATASETS)}), a Hub id (owner/name), or a folder: of "
            "train-*.parquet and test-*.parquet files, as a clone of a Hub data set, saved by save_to_disk, with a "
            "metadata.csv, of images (train/<class>/*.png, test/<class>/*.png; of an ImageNet subset "
            "train/<wnid>/*.JPEG, val/<wnid>/*.JPEG) or of clips of speech (<word>/*.wav, or train/<word>/*.wav and "
            "test/<word>/*.wav)."
        },
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder to load instead of the Hub; `dataset` then only names the data."}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a Hub data set, or of a clone of one, that has several."}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a Hub data set; by default the newest."}
    )
    train_split: str | None = field(
        default=None, metadata={"help": "The split to train on; by default the one called train or training."}
    )
    validation_split: str | None = field(
        default=None,
        metadata={
            "help": "The split to validate on; by default the one called validation, valid, val or dev, else a part "
            "of the training split."
        },
    )
    test_split: str | None = field(
        default=None, metadata={"help": "The split to test on; by default the one called test, testing or eval."}
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Image or audio column; by default the only one."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Label column; by default the only one, of CIFAR-100 fine_label."}
    )
    resize: int | None = field(
        default=None, metadata={"help": "Resize images to this height and width; spectrograms by default to 64."}
    )
    center_crop: bool = field(
        default=False,
        metadata={"help": "With resize: keep the proportions and crop the center, instead of stretching images."},
    )
    rgba_background: list[int] | None = field(
        default=None,
        metadata={
            "help": "Red, green and blue (0 to 255) behind images that are transparent in parts; by default they are "
            "refused."
        },
    )
    zca: bool = field(
        default=False,
        metadata={
            "help": "Whiten images by ZCA, fitted on the training split, instead of normalizing their channels. The "
            "matrix is saved, and counted, with the artifact."
        },
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Part of each class held out of the training split, if the data has no validation split."},
    )
    data_seed: int = field(default=0, metadata={"help": "Seed of the validation split and of max_train_samples."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Keep at most this many training images, stratified by class."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {self.validation_fraction}.")
        check_counts(self, "max_train_samples")
        check_counts(self, "resize", most=MOST_PIXELS)
        check_between(self, 0, MOST_SEED, "data_seed")
        splits = [split for split in (self.train_split, self.validation_split, self.test_split) if split is not None]
        if len(set(splits)) < len(splits):
            raise ValueError(f"train_split, validation_split and test_split must be different splits, got {splits}.")
        background = self.rgba_background
        if background is not None and (len(background) != 3 or not all(0 <= value <= 255 for value in background)):
            raise ValueError(f"rgba_background must be three numbers from 0 to 255, got {background}.")
        if self.center_crop and self.resize is None:
            raise ValueError("center_crop says how images are resized: set resize too.")


def named_dataset(dataset: str) -> NamedDataset | None:
    """The named data set behind a name or its Hub id."""
    # A subset has a name alone: its Hub id is that of all thousand classes.
    by_hub_id = {known.hub_id: known for name, known in NAMED_DATASETS.items() if name not in IMAGENET_SUBSETS}
    return NAMED_DATASETS.get(dataset, by_hub_id.get(dataset))
