"""A ConvNet trained on an artifact by an Accelerate loop, whose processes share out the bases.

accelerate launch training/examples/accelerate_loop.py runs/demo/haba/artifact digits"""

import argparse

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor

from haba_hf import HabaModel
from haba_hf.artifact.pairing import HabaCollator, PairedDataset
from haba_hf.data import DataArguments, load_image_data
from haba_hf.evaluation import accuracy
from haba_hf.networks import NetworkArguments, build_network

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("artifact", help="folder, or id on the Hub")
parser.add_argument("dataset", help="real data to test on, as in a recipe")
parser.add_argument("--data_dir", help="folder of that data; by default it comes from the Hub")
parser.add_argument("--epochs", type=int, default=300)
arguments = parser.parse_args()

accelerator = Accelerator()
model = HabaModel.from_pretrained(arguments.artifact)
processor = AutoImageProcessor.from_pretrained(arguments.artifact)
test = load_image_data(DataArguments(arguments.dataset, data_dir=arguments.data_dir)).test
loader = DataLoader(PairedDataset(model, seed=accelerator.process_index), 16, True, collate_fn=HabaCollator())
network = build_network(NetworkArguments(network_depth=2), model.config.sample_shape, model.config.num_labels, seed=0)
optimizer = torch.optim.SGD(network.parameters(), lr=model.student_learning_rate.item(), momentum=0.9)
network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
for batch in (batch for epoch in range(arguments.epochs) for batch in loader):
    optimizer.zero_grad()
    accelerator.backward(torch.nn.functional.cross_entropy(network(batch["pixel_values"]), batch["labels"]))
    optimizer.step()
student = accelerator.unwrap_model(network)
accelerator.print(f"accuracy {accuracy(student, test.images, test.labels, processor):.4f}")
