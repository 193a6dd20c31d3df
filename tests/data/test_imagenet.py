"""ImageNet subsets from folders by wnid and from the Hub's stream."""

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from fake_hub import serving
from haba_hf import HabaImageProcessor
from haba_hf.data import IMAGENET_SUBSETS, NAMED_DATASETS, DataArguments, load_image_data
from haba_hf.data.imagenet import HUB_ID
from haba_hf.data.splits import images_at_once
from haba_hf.recipes import parse_recipe, recipes_folder
from haba_hf.runs import distill, evaluate
from tiny import tiny_accelerator

NETTE = IMAGENET_SUBSETS["imagenette"]


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def picture(label, index, grey=False):
    """A picture of its own size and brightness, smooth enough that JPEG keeps it."""
    height, width = 40 + 3 * index, 60 - 2 * label
    y, x = np.mgrid[0:height, 0:width]
    waves = 25 * label + 12 * np.sin(x / 9 + index) * np.cos(y / 7)
    return Image.fromarray(waves.clip(0, 255).astype(np.uint8)).convert("L" if grey else "RGB")


def write_subset(folder, classes, per_class=3, val_per_class=1, val="val"):
    for split, count, first in (("train", per_class, 0), (val, val_per_class, 10)):
        for label, known in enumerate(classes):
            (folder / split / known.wnid).mkdir(parents=True)
            for index in range(count):
                grey = label == 0 and index == 0  # ImageNet has some
                path = folder / split / known.wnid / f"{known.wnid}_{first + index}.JPEG"
                picture(label, first + index, grey).save(path, quality=95)
    return folder


def load(folder, dataset="imagenette", **fields):
    fields = {"resize": 32, "validation_fraction": 0.0, **fields}
    return load_image_data(DataArguments(dataset=dataset, data_dir=str(folder), **fields))


# --- the lists -------------------------------------------------------------------------------------------------------


def test_the_six_subsets_have_ten_classes_each():
    assert list(IMAGENET_SUBSETS) == [
        *("imagenette", "imagewoof", "imagefruit", "imagemeow", "imagesquawk", "imageyellow")
    ]
    for name, classes in IMAGENET_SUBSETS.items():
        assert len({known.wnid for known in classes}) == len({known.name for known in classes}) == 10
        assert NAMED_DATASETS[name].hub_id == HUB_ID


def test_labels_and_wnids_are_in_the_same_order():
    """ILSVRC numbers its classes in the order of their wnids: a slip in either would show."""
    known = {known for classes in IMAGENET_SUBSETS.values() for known in classes}
    by_label = sorted(known, key=lambda each: each.index)
    assert [each.wnid for each in by_label] == sorted(each.wnid for each in known)
    assert len({each.index for each in known}) == len({each.wnid for each in known}) == len(known) == 57
    assert all(0 <= each.index < 1000 and len(each.wnid) == 9 for each in known)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("val", ["val", "validation", "test"])
def test_a_folder_by_wnid(tmp_path, val):
    write_subset(tmp_path, NETTE, val=val)
    (tmp_path / "train" / "n02105641").mkdir()  # a class of another subset
    picture(3, 3).save(tmp_path / "train" / "n02105641" / "x.JPEG")
    data = load(tmp_path, center_crop=True)
    assert data.name == "imagenette"
    assert data.class_names[:3] == ["tench", "English springer", "cassette player"]
    assert data.image_shape == (3, 32, 32) and data.train.images.dtype == torch.uint8
    assert data.train.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert len(data.test) == 10
    assert data.processor.image_mean == [0.485, 0.456, 0.406]
    # Label and pixels belong together: brightness rises with the label.
    means = data.train.images.float().mean(dim=(1, 2, 3)).view(10, 3).mean(dim=1)
    assert (means.diff() > 15).all()
    # What the artifact's processor makes of the picture as it is on disk.
    path = tmp_path / "train" / NETTE[4].wnid / f"{NETTE[4].wnid}_1.JPEG"
    assert torch.equal(data.processor.to_uint8(Image.open(path))[0], data.train.images[13])
    assert data.processor.do_center_crop and not load(tmp_path).processor.do_center_crop


def test_pictures_are_cropped_or_stretched_as_asked(tmp_path):
    write_subset(tmp_path, NETTE)
    size = {"height": 32, "width": 32}
    for center_crop in (True, False):
        data = load(tmp_path, center_crop=center_crop)
        expected = HabaImageProcessor(size=size, do_center_crop=center_crop).to_uint8(
            Image.open(tmp_path / "val" / NETTE[2].wnid / f"{NETTE[2].wnid}_10.JPEG")
        )
        assert torch.equal(data.test.images[2], expected[0])
    with pytest.raises(ValueError, match="set resize"):
        load(tmp_path, resize=None)
    with pytest.raises(ValueError, match="center_crop says how images are resized: set resize too"):
        DataArguments(center_crop=True)


def test_what_is_missing_is_named(tmp_path):
    folder = write_subset(tmp_path / "imagenet", NETTE)
    with pytest.raises(ValueError, match=r"train.n02096294 \(Australian terrier\) is missing or holds no images"):
        load(folder, dataset="imagewoof")
    (folder / "train" / NETTE[5].wnid).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"train.n03394916 \(French horn\) is missing"):
        load(folder)
    (folder / "train" / NETTE[5].wnid).mkdir()
    (folder / "train" / NETTE[5].wnid / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"n03394916 \(French horn\) is missing or holds no images"):
        load(folder)
    picture(5, 0).save(folder / "train" / NETTE[5].wnid / "0.jpg")
    broken = folder / "val" / NETTE[1].wnid / f"{NETTE[1].wnid}_10.JPEG"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"test split \(.*{broken.name}\) is corrupt"):
        load(folder)
    (folder / "val").rename(tmp_path / "val")
    with pytest.raises(ValueError, match=r"imagenette has no test split .* val/<wnid>"):
        load(folder)
    with pytest.raises(ValueError, match=r"train is missing: ImageNet's images are wanted as train/<wnid>"):
        load(tmp_path)


def test_memory_is_that_of_the_resized_bytes(tmp_path, monkeypatch):
    """Decoded pictures are held a batch at a time, and their bytes written where they stay."""
    monkeypatch.setattr("haba_hf.data.decoding.DECODE_BATCH_SIZE", 4)
    write_subset(tmp_path, NETTE)
    sizes, to_uint8 = [], HabaImageProcessor.to_uint8

    def counted(self, images):
        sizes.append(len(images))
        return to_uint8(self, images)

    monkeypatch.setattr(HabaImageProcessor, "to_uint8", counted)
    data = load(tmp_path)
    assert max(sizes) == 4 and sum(sizes) == 40
    assert data.train.images.is_contiguous() and data.train.images.untyped_storage().nbytes() == 30 * 3 * 32 * 32


# --- distillation ----------------------------------------------------------------------------------------------------


def test_a_subset_is_distilled_at_128_pixels(tmp_path):
    write_subset(tmp_path / "imagenet", NETTE)
    recipe = parse_recipe(
        [
            *(str(recipes_folder() / "imagenette" / "mtt-1pc-paper.yaml"), "--objective", "dm", "--steps", "2"),
            *("--data_dir", str(tmp_path / "imagenet"), "--output_dir", str(tmp_path / "run"), "--optimizer", "adam"),
            *("--network_width", "4", "--real_batch_size", "2", "--student_epochs", "2", "--evaluation_seeds", "1"),
            *("--evaluation_learning_rate", "0.01", "--references", "none", "--report_to", "none"),
        ]
    )
    artifact = distill(recipe, tiny_accelerator())
    (haba,) = evaluate(recipe, tiny_accelerator())
    assert haba.storage.floats == 10 * 3 * 128 * 128 + 5 * 98_472 + 1, "the paper's hallucinator at this size"
    assert haba.storage.images_per_class == pytest.approx(2, rel=2e-3)
    assert (artifact / "gallery.png").is_file()


# --- the Hub ---------------------------------------------------------------------------------------------------------


def hub_rows(folder, split, labels):
    """A parquet file as the Hub's ImageNet-1k has: the label is one of 1,000, rows are in no order."""
    rows = [{"image": picture(label % 10, 0), "label": label} for label in labels]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=[f"name {i}" for i in range(1000)])})
    path = folder / f"{split}.parquet"
    Dataset.from_list(rows, features=features).to_parquet(str(path))
    return path.read_bytes()


def test_the_hubs_rows_are_filtered_and_relabelled_once(tmp_path, monkeypatch):
    labels = [0, 5, 701, 217, 999, 574, 482, 491, 1, 497, 566, 569, 571, 0, 217, 3]
    with serving(tmp_path, monkeypatch) as hub:
        files = {
            f"data/{split}-00000-of-00001.parquet": hub_rows(tmp_path, split, labels)
            for split in ("train", "validation", "test")
        }
        hub.put(HUB_ID, files, kind="dataset")
        args = DataArguments(dataset="imagenette", resize=16, validation_fraction=0.0)
        data = load_image_data(args)
        expected = [0, 9, 1, 8, 2, 3, 4, 5, 6, 7, 0, 1]
        assert data.train.labels.tolist() == data.test.labels.tolist() == expected
        assert data.class_names == [known.name for known in NETTE]
        # Pixels came along with their labels.
        original = HabaImageProcessor(size={"height": 16, "width": 16}).to_uint8(picture(1, 0))
        assert torch.equal(data.train.images[1], original[0])
        before = len(hub.requests)
        assert load_image_data(args).fingerprint == data.fingerprint
        assert len(hub.requests) == before, "the second time the rows are in the cache"


def test_a_hub_without_access_or_with_other_classes(tmp_path, monkeypatch):
    with serving(tmp_path, monkeypatch) as hub:
        args = DataArguments(dataset="imagefruit", resize=16)
        with pytest.raises(ValueError, match=r"Could not stream ILSVRC/imagenet-1k .* accept its terms"):
            load_image_data(args)
        names = ClassLabel(names=["a", "b"])
        features = Features({"image": ImageFeature(), "label": names})
        table = Dataset.from_list([{"image": picture(0, 0), "label": 0}], features=features)
        table.to_parquet(str(tmp_path / "x.parquet"))
        content = (tmp_path / "x.parquet").read_bytes()
        hub.put(HUB_ID, {f"data/{split}-0.parquet": content for split in ("train", "validation")}, kind="dataset")
        with pytest.raises(ValueError, match="has 2 classes instead of 1000"):
            load_image_data(args)


@pytest.mark.parametrize(("side", "count"), [(8, 256), (28, 256), (32, 256), (64, 64), (128, 16), (1024, 1)])
def test_fewer_large_images_are_scored_at_once(side, count):
    assert images_at_once((3, 1, side, side)) == count
