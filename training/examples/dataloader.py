"""A ConvNet trained on an artifact by plain PyTorch: a `DataLoader` whose workers hallucinate, and DSA.

python training/examples/dataloader.py runs/demo/haba/artifact digits"""

import argparse

import torch
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor

from haba_hf import HabaModel
from haba_hf.artifact.pairing import HabaCollator, PairedDataset
from haba_hf.data import DataArguments, load_image_data
from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.evaluation import accuracy
from haba_hf.networks import NetworkArguments, build_network

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("artifact", help="folder, or id on the Hub")
parser.add_argument("dataset", help="real data to test on, as in a recipe")
parser.add_argument("--data_dir", help="folder of that data; by default it comes from the Hub")
parser.add_argument("--epochs", type=int, default=300)
parser.add_argument("--workers", type=int, default=2)
arguments = parser.parse_args()

if __name__ == "__main__":  # workers may import this file
    model = HabaModel.from_pretrained(arguments.artifact)
    augmented = HabaCollator(DsaAugmentation("color_crop_cutout_scale_rotate", per_sample=True))
    loader = DataLoader(PairedDataset(model), 256, True, collate_fn=augmented, num_workers=arguments.workers)
    network = build_network(NetworkArguments(network_depth=2), model.config.sample_shape, model.config.num_labels, 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=model.student_learning_rate.item(), momentum=0.9)
    for batch in (batch for epoch in range(arguments.epochs) for batch in loader):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(batch["pixel_values"]), batch["labels"]).backward()
        optimizer.step()
    test = load_image_data(DataArguments(arguments.dataset, data_dir=arguments.data_dir)).test
    processor = AutoImageProcessor.from_pretrained(arguments.artifact)
    print(f"accuracy {accuracy(network, test.images, test.labels, processor):.4f}")
