"""Any image classifier of transformers, from a fresh config, trained on an artifact by `Trainer`.

    python training/examples/trainer.py me/haba-fashion-mnist fashion_mnist --model_type vit --config patch_size=4

An epoch is every basis once, each with a hallucinator drawn at random."""

import argparse
import json

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from haba_hf import HabaModel
from haba_hf.data import DataArguments, load_image_data
from haba_hf.evaluation.metric import DistilledAccuracy
from haba_hf.pairing import HabaCollator, PairedDataset, paired_cross_entropy

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("artifact", help="folder, or id on the Hub")
parser.add_argument("dataset", help="real data to test on, as in a recipe")
parser.add_argument("--model_type", default="resnet")
parser.add_argument("--config", nargs="*", default=[], metavar="NAME=JSON", help="fields of the classifier's config")
parser.add_argument("--epochs", type=int, default=200)
arguments = parser.parse_args()

model = HabaModel.from_pretrained(arguments.artifact)
processor = AutoImageProcessor.from_pretrained(arguments.artifact)
test = load_image_data(DataArguments(arguments.dataset)).test
fields = {name: json.loads(value) for name, value in (pair.split("=") for pair in arguments.config)}
sizes = {"num_channels": model.config.sample_channels, "image_size": model.config.sample_height}
config = AutoConfig.for_model(arguments.model_type, num_labels=model.config.num_labels, **sizes, **fields)
settings = TrainingArguments("runs/trainer", num_train_epochs=arguments.epochs, save_strategy="no", report_to="none")
network = AutoModelForImageClassification.from_config(config)
trainer = Trainer(network, settings, HabaCollator(), PairedDataset(model), compute_loss_func=paired_cross_entropy)
trainer.train()
images = zip(processor.normalize(test.images), test.labels, strict=True)
real = [{"pixel_values": image, "labels": label} for image, label in images]
logits, labels, _ = trainer.predict(real)
scores = DistilledAccuracy().compute(predictions=logits.argmax(axis=1), references=labels)
print(f"accuracy {scores['accuracy']:.4f}")
