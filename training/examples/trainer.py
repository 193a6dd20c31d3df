"""Any image classifier of transformers, from a fresh config, trained on an artifact by `Trainer`.

python training/examples/trainer.py me/haba fashion_mnist --model_type vit --config '{"patch_size": 4}'"""

import argparse
import json

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from haba_hf import HabaModel
from haba_hf.artifact.pairing import HabaCollator, PairedDataset, paired_cross_entropy
from haba_hf.data import DataArguments, load_image_data
from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.evaluation.metric import DistilledAccuracy

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("artifact", help="folder, or id on the Hub")
parser.add_argument("dataset", help="real data to test on, as in a recipe")
parser.add_argument("--data_dir", help="folder of that data; by default it comes from the Hub")
parser.add_argument("--model_type", default="resnet")
parser.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="fields of the classifier's config")
parser.add_argument("--epochs", type=int, default=500)
arguments = parser.parse_args()

model = HabaModel.from_pretrained(arguments.artifact)
test = load_image_data(DataArguments(arguments.dataset, data_dir=arguments.data_dir)).test
sizes = {"num_channels": model.config.sample_channels, "image_size": model.config.sample_height}
config = AutoConfig.for_model(arguments.model_type, num_labels=model.config.num_labels, **sizes, **arguments.config)
options = {"learning_rate": 1e-3, "per_device_train_batch_size": 64, "save_strategy": "no", "report_to": "none"}
settings = TrainingArguments("runs/trainer", num_train_epochs=arguments.epochs, **options)
augmented = HabaCollator(DsaAugmentation("color_crop_cutout_flip_scale_rotate", per_sample=True))
network = AutoModelForImageClassification.from_config(config)
trainer = Trainer(network, settings, augmented, PairedDataset(model), compute_loss_func=paired_cross_entropy)
trainer.train()
images = AutoImageProcessor.from_pretrained(arguments.artifact).normalize(test.images)
real = [{"pixel_values": image, "labels": label} for image, label in zip(images, test.labels, strict=True)]
logits, labels, _ = trainer.predict(real)
scores = DistilledAccuracy().compute(predictions=logits.argmax(axis=1), references=labels)
print(f"accuracy {scores['accuracy']:.4f}")
