"""Small sets of images in files, as the Hub has them."""

import io

import numpy as np
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from haba_hf.data import DataArguments, load_image_data


def pixels_of(label, index, height=6, width=5, channels=3):
    """The pixels of one image, told apart from every other by its label and index."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng([label, index]).integers(0, 256, size=shape, dtype=np.uint8)


def encode(pixels, image_format="PNG"):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, image_format, **({"lossless": True} if image_format == "WEBP" else {}))
    return buffer.getvalue()


def rows_of(per_class=10, num_labels=3, first=0, **kwargs):
    """Rows in round-robin order of class: label 0, 1, 2, 0, 1, 2, ..."""
    return [
        {"image": encode(pixels_of(label, first + index, **kwargs)), "label": label}
        for index in range(per_class)
        for label in range(num_labels)
    ]


CLASS_LABEL = ClassLabel(names=["cat", "dog", "owl"])


def write_parquet(file, rows, label_feature=CLASS_LABEL, image_column="image", label_column="label", **more):
    """Writes rows as the Hub's parquet files are: encoded bytes, and the features in the file's metadata."""
    columns = {
        image_column: [None if row["image"] is None else {"bytes": row["image"], "path": None} for row in rows],
        label_column: [row["label"] for row in rows],
        **{name: values for name, (values, _) in more.items()},
    }
    features = Features(
        {
            image_column: ImageFeature(),
            label_column: label_feature,
            **{name: feature for name, (_, feature) in more.items()},
        }
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=features).to_parquet(str(file))


def load(path, needs_test=True, **kwargs):
    return load_image_data(DataArguments(dataset=str(path), **kwargs), needs_test=needs_test)


def pictures(per_class, first=0):
    """Images in memory, three classes of their own brightness."""
    rows = [(label, index) for index in range(per_class) for label in range(3)]
    images = [(pixels_of(label, first + index, 8, 8) // 3 + 80 * label).astype(np.uint8) for label, index in rows]
    features = Features({"image": ImageFeature(), "label": CLASS_LABEL})
    return Dataset.from_dict({"image": images, "label": [label for label, _ in rows]}, features=features)
