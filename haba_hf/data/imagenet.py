"""The six ImageNet subsets of MTT and HaBa (supplement, Table 2), each ten classes of ImageNet-1k: from a folder of
images by wnid, or filtered out of the Hub's `ILSVRC/imagenet-1k`.

Training images are ImageNet's, about 1,300 of each class; test images are its validation images, 50 of each class.
They are opened as tables of encoded images, which stay on disk, so only what is decoded and resized takes memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, load_dataset
from datasets.exceptions import DatasetGenerationError

from .folders import Tables, pictures_in, table_of_files

HUB_ID = "ILSVRC/imagenet-1k"
NUM_CLASSES = 1000
# Our splits and ImageNet's; its own test images have no published labels.
HUB_SPLITS = {"train": "train", "test": "validation"}
FOLDERS = {"train": ("train",), "test": ("val", "validation", "test")}


@dataclass(frozen=True)
class ImageNetClass:
    """
    One class of ImageNet-1k.

    Args:
        index (`int`): its label there.
        wnid (`str`): its WordNet id, which names its folder.
        name (`str`): what it is called here.
    """

    index: int
    wnid: str
    name: str


def _classes(table: str) -> tuple[ImageNetClass, ...]:
    rows = (line.split(maxsplit=2) for line in table.strip().splitlines())
    return tuple(ImageNetClass(int(index), wnid, name) for index, wnid, name in rows)


# In the order of the released code of MTT: the first of each is label 0.
IMAGENET_SUBSETS = {
    "imagenette": _classes("""
        0 n01440764 tench
        217 n02102040 English springer
        482 n02979186 cassette player
        491 n03000684 chain saw
        497 n03028079 church
        566 n03394916 French horn
        569 n03417042 garbage truck
        571 n03425413 gas pump
        574 n03445777 golf ball
        701 n03888257 parachute
    """),
    "imagewoof": _classes("""
        193 n02096294 Australian terrier
        182 n02093754 Border terrier
        258 n02111889 Samoyed
        162 n02088364 beagle
        155 n02086240 Shih-Tzu
        167 n02089973 English foxhound
        159 n02087394 Rhodesian ridgeback
        273 n02115641 dingo
        207 n02099601 golden retriever
        229 n02105641 Old English sheepdog
    """),
    "imagefruit": _classes("""
        953 n07753275 pineapple
        954 n07753592 banana
        949 n07745940 strawberry
        950 n07747607 orange
        951 n07749582 lemon
        957 n07768694 pomegranate
        952 n07753113 fig
        945 n07720875 bell pepper
        943 n07718472 cucumber
        948 n07742313 Granny Smith
    """),
    "imagemeow": _classes("""
        281 n02123045 tabby
        282 n02123159 tiger cat
        283 n02123394 Persian cat
        284 n02123597 Siamese cat
        285 n02124075 Egyptian cat
        291 n02129165 lion
        292 n02129604 tiger
        290 n02128925 jaguar
        289 n02128757 snow leopard
        287 n02127052 lynx
    """),
    "imagesquawk": _classes("""
        84 n01806143 peacock
        130 n02007558 flamingo
        88 n01818515 macaw
        144 n02051845 pelican
        145 n02056570 king penguin
        22 n01614925 bald eagle
        96 n01843383 toucan
        9 n01518878 ostrich
        100 n01860187 black swan
        89 n01819313 sulphur-crested cockatoo
    """),
    "imageyellow": _classes("""
        309 n02206856 bee
        986 n12057211 yellow lady's slipper
        954 n07753592 banana
        951 n07749582 lemon
        987 n12144580 corn
        779 n04146614 school bus
        599 n03530642 honeycomb
        291 n02129165 lion
        72 n01773157 black and gold garden spider
        11 n01531178 goldfinch
    """),
}


def open_wnid_folder(folder: Path, classes: tuple[ImageNetClass, ...]) -> Tables:
    """
    Tables of a folder `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG` (or `validation`, `test`); other classes there are
    passed over.

    Raises:
        `ValueError`: if the folder of a class is missing or holds no images; names it.
    """
    tables = Tables({})
    for split, names in FOLDERS.items():
        root = next((folder / name for name in names if (folder / name).is_dir()), None)
        if root is None and split == "train":
            raise ValueError(f"{folder / 'train'} is missing: ImageNet's images are wanted as train/<wnid>/*.JPEG.")
        if root is None:
            continue
        files_of = {}
        for known in classes:
            files_of[known.name] = pictures_in(root / known.wnid)
            if not files_of[known.name]:
                raise ValueError(
                    f"{root / known.wnid} ({known.name}) is missing or holds no images: put those of this class there."
                )
        tables.splits[split] = table_of_files(files_of, list(files_of), "image")
    return tables


def stream_from_hub(classes: tuple[ImageNetClass, ...]) -> Tables:
    """
    Tables of the classes' rows in the Hub's ImageNet-1k. The first time the whole data set streams by (some 140 GB)
    and the rows are kept in the datasets cache (about 1.5 GB), as they are encoded; later ones read them there.

    Raises:
        `ValueError`: if the Hub cannot be reached or does not give access, or the data set is another one.
    """
    label_of = {known.index: label for label, known in enumerate(classes)}
    tables = Tables({})
    for split, hub_split in HUB_SPLITS.items():
        settings = {"hub_split": hub_split, "label_of": label_of}
        try:
            tables.splits[split] = Dataset.from_generator(_rows, features=_features(classes), gen_kwargs=settings)
        except DatasetGenerationError as error:
            raise ValueError(
                f"Could not stream {HUB_ID} from the Hub; accept its terms there and run `hf auth login`, or give a "
                f"folder train/<wnid>/*.JPEG and val/<wnid>/*.JPEG as data_dir. ({error.__cause__})"
            ) from error
    return tables


def _rows(hub_split: str, label_of: dict[int, int]) -> Iterator[dict[str, Any]]:
    stream = load_dataset(HUB_ID, split=hub_split, streaming=True)
    found = stream.features["label"]
    if found.num_classes != NUM_CLASSES:
        raise ValueError(f"{HUB_ID} has {found.num_classes} classes instead of {NUM_CLASSES}")
    for row in stream.cast_column("image", Image(decode=False)):  # only what is kept will be decoded
        if row["label"] in label_of:
            yield {"image": row["image"], "label": label_of[row["label"]]}


def _features(classes: tuple[ImageNetClass, ...]) -> Features:
    return Features({"image": Image(), "label": ClassLabel(names=[known.name for known in classes])})
