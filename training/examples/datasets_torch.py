"""A ConvNet trained on all samples of an artifact as a `datasets.Dataset` of torch tensors.

    python training/examples/datasets_torch.py runs/demo/haba/artifact digits

The same rows come from a dataset repository: `load_dataset("me/haba-digits", "exact", split="train")`.
"""

import argparse

import torch
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor

from haba_hf import HabaModel
from haba_hf.data import DataArguments, load_image_data
from haba_hf.evaluation import accuracy
from haba_hf.networks import NetworkArguments, build_network

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("artifact", help="folder, or id on the Hub")
parser.add_argument("dataset", help="real data to test on, as in a recipe")
parser.add_argument("--data_dir", help="folder of that data; by default it comes from the Hub")
parser.add_argument("--epochs", type=int, default=60)
arguments = parser.parse_args()

model = HabaModel.from_pretrained(arguments.artifact)
processor = AutoImageProcessor.from_pretrained(arguments.artifact)
test = load_image_data(DataArguments(arguments.dataset, data_dir=arguments.data_dir)).test
samples = model.to_dataset().with_format("torch", columns=["pixel_values", "labels"])
loader = DataLoader(samples, batch_size=64, shuffle=True)
network = build_network(NetworkArguments(network_depth=2), model.config.sample_shape, model.config.num_labels, seed=0)
optimizer = torch.optim.SGD(network.parameters(), lr=model.student_learning_rate.item(), momentum=0.9)
for batch in (batch for epoch in range(arguments.epochs) for batch in loader):
    loss = torch.nn.functional.cross_entropy(network(batch["pixel_values"]), batch["labels"])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"accuracy {accuracy(network, test.images, test.labels, processor):.4f}")
