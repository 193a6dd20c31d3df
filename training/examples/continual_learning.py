"""Classes that come two at a time and leave a memory: what DM has learned of each, or as many bytes of its images.
python training/examples/continual_learning.py hub_cards/published/cifar10-dm-1ipc cifar10
Measured on one core of a Xeon, validation split, mean of 2 seeds: once all ten classes have come a ConvNet has 33.1 %
with the distilled memory and 28.0 % with real images; after four classes 60.8 and 49.7 %."""

import argparse
import json
from pathlib import Path

import torch
from torch.nn import functional as F

from haba_hf import HabaModel
from haba_hf.coresets import random_images, real_images_artifact, real_images_config
from haba_hf.data import DataArguments, load_image_data
from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.evaluation import accuracy
from haba_hf.networks import NetworkArguments, build_network

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("artifact", help="folder, or id on the Hub, of classes distilled apart: by DM")
parser.add_argument("dataset", help="real data, as in a recipe")
parser.add_argument("--data_dir", help="folder of that data; by default it comes from the Hub")
parser.add_argument("--steps", type=int, default=300, help="of every two classes")
parser.add_argument("--out", default="continual.json")
arguments = parser.parse_args()

model = HabaModel.from_pretrained(arguments.artifact)
data = load_image_data(DataArguments(arguments.dataset, data_dir=arguments.data_dir, validation_fraction=0.1))
count = -(-model.storage().bytes // data.train.images[0].nbytes // data.num_labels)
real = real_images_artifact(data, random_images(data, count, seed=0), real_images_config(data, count))
augment = DsaAugmentation("color_crop_cutout_flip_scale_rotate")
sources, found = {"distilled": model, "real, equal bytes": real, "none": None}, {}
for name, source in sources.items():
    memory = None if source is None else source.materialize().samples[source.sample_ids_by_class()]
    found[name] = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        network = build_network(NetworkArguments(network_width=64), data.image_shape, data.num_labels, seed)
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        reached = []
        for seen in range(2, data.num_labels + 1, 2):
            rows = torch.cat([data.train.of_class(label) for label in (seen - 2, seen - 1)])
            for _ in range(arguments.steps):
                new = rows[torch.randint(len(rows), (64 if memory is None else 128 // seen,), generator=generator)]
                images, labels = data.processor.normalize(data.train.images[new]), data.train.labels[new]
                if memory is not None and seen > 2:  # every class seen has its share of the batch
                    old = torch.randint((seen - 2) * memory.shape[1], (64 - len(new),), generator=generator)
                    images = torch.cat([images, memory[: seen - 2].flatten(0, 1)[old]])
                    labels = torch.cat([labels, old // memory.shape[1]])
                loss = F.cross_entropy(network(augment(images, generator)), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            known = data.validation.labels < seen
            images, labels = data.validation.images[known], data.validation.labels[known]
            reached.append(accuracy(network, images, labels, data.processor))
        found[name].append(reached)
    print(name, *(f"{value:.1%}" for value in torch.tensor(found[name]).mean(dim=0).tolist()))
Path(arguments.out).write_text(json.dumps({"bytes": model.storage().bytes, "real_per_class": count, **found}))
