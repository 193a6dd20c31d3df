"""A data set, ready for distillation."""

import hashlib
from dataclasses import dataclass, field, replace

import torch

from ..artifact.loading import HabaProcessor
from ..utils.allocator import free_memory
from ..utils.text import plain
from .splits import Split

MOST_CLASSES_LISTED = 20
SHARE_OF_FREE_MEMORY = 0.5  # of an accelerator, for training images


@dataclass
class ImageData:
    """
    A data set ready for distillation: images, or the spectrograms of speech, which are images of one channel.

    Args:
        name (`str`): the name given as `dataset` (of a folder, its last part).
        train, validation (`Split`): validation may be empty.
        test (`Split`, *optional*): `None` only if it was allowed to be missing.
        class_names (`list[str]`): names in label order.
        processor (`HabaImageProcessor` or `HabaAudioProcessor`): to and from model space.
        fingerprint (`str`): first 16 hex digits of the SHA-256 of the training images (sounds) and labels, and of
            whether they are whitened.
        notes (`list[str]`): what was passed over or changed on the way in, in sentences.
    """

    name: str
    train: Split
    validation: Split
    test: Split | None
    class_names: list[str]
    processor: HabaProcessor
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    _read_from: dict[torch.device, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def num_labels(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def summary(self) -> str:
        """What was read, for a user to check before any work: images per split and class, and the notes."""
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        counts = {
            split: torch.bincount(of.labels, minlength=self.num_labels).tolist()
            for split, of in splits.items()
            if of is not None and len(of)
        }
        sizes = ", ".join(f"{sum(of_split):,} {split}" for split, of_split in counts.items())
        lines = [f"{self.name}: {sizes} images of {'x'.join(map(str, self.image_shape))}, {self.num_labels} classes"]
        if self.num_labels <= MOST_CLASSES_LISTED:
            classes = zip(self.class_names, zip(*counts.values(), strict=True), strict=True)
            lines += [f"  of each ({' / '.join(counts)}): "]
            lines[-1] += ", ".join(f"{name} {'/'.join(map(str, of_class))}" for name, of_class in classes)
        else:
            lines += [f"  of each class {min(of)} to {max(of)} {split} images" for split, of in counts.items()]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(f"  {plain(line)}" if line.startswith(" ") else plain(line) for line in lines)

    def with_classes_of(self, names: list[str], whose: str) -> "ImageData":
        """
        The same data with the classes in the order of `names`: a class is the same one if it is called the same.

        Args:
            names (`list[str]`): the classes of an artifact, in its label order. Where it has none, which transformers
                then calls `LABEL_0` and so on, classes are matched by their order, and a note says so.
            whose (`str`): what messages call the artifact.

        Raises:
            `ValueError`: if one of the two has a class that the other lacks.
        """
        if names == self.class_names:
            return self
        if names == [f"LABEL_{label}" for label in range(self.num_labels)]:
            note = f"{whose} does not name its classes: they are taken in the order of {self.name}"
            return replace(self, notes=[*self.notes, note])
        place_of = {name: place for place, name in enumerate(names)}
        known = set(self.class_names)
        missing = [name for name in names if name not in known]
        more = [name for name in self.class_names if name not in place_of]
        if missing or more or len(names) != self.num_labels:
            differ = [
                f"{self.name} lacks {', '.join(missing[:5])}" if missing else "",
                f"{whose} lacks {', '.join(more[:5])}" if more else "",
            ]
            raise ValueError(
                f"The classes of {whose} ({len(names)}) and of {self.name} ({self.num_labels}) are not the same: "
                f"{'; '.join(filter(None, differ))}. Evaluate on the data it was distilled from, with classes called "
                "as there."
            )
        place = torch.tensor([place_of[name] for name in self.class_names])
        train, validation = (Split(of.images, place[of.labels], kept=of.kept) for of in (self.train, self.validation))
        test = None if self.test is None else Split(self.test.images, place[self.test.labels])
        return replace(self, class_names=list(names), train=train, validation=validation, test=test)

    def keeping(self, rows: torch.Tensor) -> "ImageData":
        """
        The same data, of whose training images some alone are drawn and make up the classes; its fingerprint says
        which.

        Args:
            rows (`torch.LongTensor`): which, in order.
        """
        digest = hashlib.sha256(self.fingerprint.encode() + rows.numpy().tobytes())
        kept = replace(self, train=replace(self.train, kept=rows), fingerprint=digest.hexdigest()[:16])
        kept._read_from = self._read_from  # an accelerator holds the images once
        return kept

    @property
    def bytes_per_value(self) -> int:
        """Bytes that a value of a training image takes: 1 a pixel, 4 a value of a spectrogram."""
        return self.train.images.element_size()

    def extremes(self) -> torch.Tensor:
        """
        An image of the least value and one of the greatest, `[2, C, H, W]`, not normalized: of pixels 0 and 255, of
        spectrograms those of the training set.
        """
        values = torch.tensor([0, 255], dtype=torch.uint8)
        if self.train.images.is_floating_point():
            values = torch.stack(self.train.images.aminmax())
        return values.view(2, 1, 1, 1).expand(-1, *self.image_shape)

    def draw_per_class(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """
        Random training images, `count` of each class without replacement, class by class and normalized:
        `[num_labels * count, C, H, W]`.

        Raises:
            `ValueError`: if a class has fewer training images.
        """
        return self.processor.normalize(self.train.images[self.draw_rows_per_class(count, generator)])

    def train_images_per_class(self) -> list[int]:
        """Training images of each class."""
        return torch.bincount(self.train.labels, minlength=self.num_labels).tolist()

    def draw_rows_per_class(self, count: int, generator: torch.Generator, repeat: bool = False) -> torch.Tensor:
        """
        The rows (int64 `[num_labels * count]`) that [`draw_per_class`] draws.

        Args:
            repeat (`bool`, *optional*, defaults to `False`): of a class with fewer images take all, again and again.

        Raises:
            `ValueError`: if a class has fewer training images, or with `repeat` none.
        """
        drawn = []
        for rows in self.rows_of_classes(at_least=1 if repeat else count):
            shuffled = rows[torch.randperm(len(rows), generator=generator)]
            drawn.append(shuffled[torch.arange(count) % len(rows)])
        return torch.cat(drawn)

    def rows_of_classes(self, at_least: int) -> list[torch.Tensor]:
        """
        Rows of each class in the training split, in order.

        Raises:
            `ValueError`: if a class has fewer than `at_least`.
        """
        rows_of_classes = self.train.of_classes(self.num_labels)
        for name, rows in zip(self.class_names, rows_of_classes, strict=True):
            if len(rows) < at_least:
                raise ValueError(
                    f"Class {name!r} has {len(rows)} training images, fewer than the {at_least} asked for: lower "
                    "bases_per_class (or, of an evaluation, the storage budget), or fill it with copies by "
                    "repeat_images."
                )
        return rows_of_classes

    def normalized(self, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        """
        Training images normalized on a device, `[n, C, H, W]`.

        Args:
            rows (`torch.LongTensor` `[n]`): which, on the CPU or that device.
            device (`torch.device`): an accelerator keeps all training images, as they are in the split, from the first
                call on, so that none of them waits for the host again; if they would take more than half of the memory
                that is free then, every call copies its own.
        """
        images = self._images_for(device)
        return self.processor.normalize(images[rows.to(images.device)].to(device))

    def _images_for(self, device: torch.device) -> torch.Tensor:
        """The training images where they are to be read for a device: there, or on the CPU."""
        if device.type == "cpu":
            return self.train.images
        if device not in self._read_from:
            fit = self.train.images.nbytes <= SHARE_OF_FREE_MEMORY * free_memory(device)
            self._read_from[device] = self.train.images.to(device) if fit else self.train.images
        return self._read_from[device]

    def draw_among(
        self, rows: torch.Tensor, count: int, generator: torch.Generator, device: torch.device
    ) -> torch.Tensor:
        """
        `count` random training images of some rows without replacement (all, if there are fewer), normalized on the
        device: `[count, C, H, W]`.
        """
        chosen = rows[torch.randperm(len(rows), generator=generator)[:count]]
        return self.normalized(chosen, device)

    def draw_rows(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Rows (int64) of `count` random training images without replacement, all if there are fewer."""
        rows = self.train.rows
        return rows[torch.randperm(len(rows), generator=generator)[:count]]

    def draw_batch(
        self, size: int, generator: torch.Generator, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        `size` random training images without replacement (all, if there are fewer), of whatever classes, normalized on
        the device: images `[size, C, H, W]` and labels `[size]`.
        """
        chosen = self.draw_rows(size, generator)
        return self.normalized(chosen, device), self.train.labels[chosen].to(device)
