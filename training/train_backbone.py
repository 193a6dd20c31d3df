"""A small ResNet of transformers, trained on some classes of a data set and kept: a backbone for probes.

python training/train_backbone.py backbones/cifar10-half cifar10 --classes 0 1 2 3 4"""

import argparse

import torch
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from haba_hf.artifact.processing_haba import HabaImageProcessor
from haba_hf.data import DataArguments, load_image_data
from haba_hf.data.augmentation import DsaAugmentation

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", help="where it is saved")
parser.add_argument("dataset", help="real data, as in a recipe")
parser.add_argument("--data_dir", help="folder of that data; by default it comes from the Hub")
parser.add_argument("--classes", type=int, nargs="+", help="that it is trained on; by default all")
parser.add_argument("--image_size", type=int, default=64, help="its own, that images are enlarged to")
parser.add_argument("--epochs", type=int, default=6)
arguments = parser.parse_args()

torch.manual_seed(0)
data = load_image_data(DataArguments(arguments.dataset, data_dir=arguments.data_dir, validation_fraction=0.1))
classes, side = torch.tensor(arguments.classes or range(data.num_labels)), arguments.image_size
rows = torch.isin(data.train.labels, classes).nonzero().flatten()
sizes = {"embedding_size": 32, "hidden_sizes": [32, 64, 128], "depths": [2, 2, 2], "layer_type": "basic"}
config = ResNetConfig(num_channels=data.image_shape[0], num_labels=data.num_labels, **sizes)
network, steps = ResNetForImageClassification(config), -(-len(rows) // 128) * arguments.epochs
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
augmentation, generator = DsaAugmentation("flip+crop"), torch.Generator().manual_seed(0)
for epoch in range(arguments.epochs):
    for batch in rows[torch.randperm(len(rows), generator=generator)].split(128):
        images = augmentation(data.normalized(batch, torch.device("cpu")), generator)
        logits = network(F.interpolate(images, (side, side), mode="bilinear")).logits
        loss = F.cross_entropy(logits, data.train.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
network.save_pretrained(arguments.folder)
statistics = {"image_mean": data.processor.image_mean, "image_std": data.processor.image_std}
size = {"height": side, "width": side}
HabaImageProcessor(size=size, num_channels=data.image_shape[0], **statistics).save_pretrained(arguments.folder)
