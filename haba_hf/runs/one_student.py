"""One student trained on an artifact and kept."""

import dataclasses
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import save_model

from ..evaluation import accuracy
from ..evaluation.protocols import artifact_training
from ..evaluation.students import train_fresh_student
from ..recipes import Recipe
from ..utils.files import atomic_directory, write_json
from ..utils.progress import Progress
from .inputs import open_evaluation
from .provenance import environment, student_network


def train_one_student(recipe: Recipe, accelerator: Accelerator) -> float:
    """
    Trains one student on an artifact by online pairing, scores it once on `evaluation_split` and writes it to
    `output_dir/student`: `model.safetensors`, `student.json` (architecture, classes, training) and the artifact's
    processor.

    It is the first student of [`evaluate`], bit for bit. Of several processes each trains the same one.

    Returns:
        Its accuracy as a fraction of 1.

    Raises:
        `ValueError`: if there is no such split, or the artifact is damaged or of other data.
        `OSError`: if there is no artifact, or `output_dir` cannot be written.
        `FloatingPointError`: if the student diverges.
    """
    opened = open_evaluation(recipe, accelerator)
    model, processor, data, split = opened.model, opened.processor, opened.data, opened.split
    architecture, arguments, seed = student_network(recipe), recipe.evaluation, recipe.distillation.seed
    training = artifact_training(model, arguments, accelerator)
    with Progress("student", training.epochs, "epoch", shown=accelerator.is_main_process) as progress:
        network = train_fresh_student(
            0,
            training,
            architecture,
            seed,
            data.image_shape,
            data.num_labels,
            processor,
            on_epoch=lambda epoch, loss: progress.update(),
        )
    score = accuracy(network, split.images, split.labels, processor)
    if accelerator.is_main_process:
        with atomic_directory(Path(recipe.distillation.output_dir) / "student") as aside:
            save_model(network, str(aside / "model.safetensors"))
            processor.save_pretrained(aside)
            settings = {
                "accuracy": score,
                "network": dataclasses.asdict(architecture),
                "image_shape": data.image_shape,
                "class_names": data.class_names,
                "training": {
                    **dataclasses.asdict(arguments),
                    "evaluation_learning_rate": training.learning_rate,
                    "seed": seed,
                },
                "artifact": opened.name,
                "recipe_hash": recipe.hash,
                "data_fingerprint": data.fingerprint,
                **environment(accelerator),
            }
            write_json(aside / "student.json", settings)
    accelerator.wait_for_everyone()
    return score
