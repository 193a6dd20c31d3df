"""From Python: a data set in memory to an artifact, a trainer with transformers' callbacks, students as measured."""

import numpy as np
import pytest
import torch
from datasets import DatasetDict, concatenate_datasets
from torch import nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import haba_hf
from fake_hub import serving
from haba_hf import HabaModel, HabaTrainer, HabaTrainingArguments, distill, register_network, train_student
from haba_hf.data import DataArguments, load_image_data
from haba_hf.evaluation import accuracy
from haba_hf.hub import read_artifact
from haba_hf.recipes import RecipeError
from haba_hf.runs import inputs
from image_sets import pictures
from tiny import launch_processes
from tiny_artifact import tiny_artifact

# A run of seconds.
SMALL = {
    **{"steps": 3, "real_batch_size": 4, "network_depth": 1, "network_width": 4, "num_hallucinators": 2},
    **{"student_epochs": 3, "evaluation_batch_size": 4, "evaluation_learning_rate": 0.05, "evaluation_seeds": 2},
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture(scope="module")
def splits():
    return DatasetDict(train=pictures(12), test=pictures(4, first=100))


@pytest.fixture(scope="module")
def artifact(splits, tmp_path_factory):
    return distill(splits, method="dm", output_dir=str(tmp_path_factory.mktemp("run") / "dm"), **SMALL)


def test_distil_evaluate_and_train_on_a_data_set_in_memory(splits, artifact):
    assert isinstance(artifact.model, HabaModel) and artifact.model.config.id2label[2] == "owl"
    assert (artifact.folder / "distillation.json").exists()
    rows = artifact.evaluate()
    assert [row.system for row in rows] == [
        "HaBa, 2 hallucinators",
        "random real, equal storage",
        "random real, equal bytes",
    ]
    again = read_artifact(artifact.folder)
    assert again.rows[0].accuracy == rows[0].accuracy, "its results are beside it"
    # One student, trained from the artifact alone, is student 0 of the evaluation.
    data = load_image_data(DataArguments("in-memory"), splits=splits)
    student = train_student(HabaModel.from_pretrained(artifact.folder))
    assert accuracy(student, data.test.images, data.test.labels, artifact.processor) == rows[0].accuracy.accuracies[0]
    assert not student.training
    other = artifact.train_student(seed=1, student_epochs=1)
    assert any((a != b).any() for a, b in zip(student.parameters(), other.parameters(), strict=True))


def test_a_finished_run_is_given_back_and_other_settings_are_refused(splits, artifact):
    folder = str(artifact.folder.parent)
    assert torch.equal(distill(splits, method="dm", output_dir=folder, **SMALL).model.bases, artifact.model.bases)
    with pytest.raises(ValueError, match="real_batch_size"):
        distill(splits, method="dm", output_dir=folder, **(SMALL | {"real_batch_size": 5}))


def test_it_is_saved_and_pushed(artifact, tmp_path, hub):
    folder = artifact.save_pretrained(tmp_path / "mine")
    assert torch.equal(HabaModel.from_pretrained(folder).bases, artifact.model.bases)
    assert artifact.push_to_hub("me/shirts") == f"{hub.url}/me/shirts"
    assert torch.equal(HabaModel.from_pretrained("me/shirts").bases, artifact.model.bases)


def test_experts_are_recorded_on_the_way(splits, tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(inputs, "load_image_data", lambda *of, **how: reads.append(of) or load_image_data(*of, **how))
    made = distill(
        splits["train"],
        "mtt",
        output_dir=str(tmp_path / "mtt"),
        **SMALL | {"student_steps": 2, "experts_dir": str(tmp_path / "experts"), "num_experts": 1, "max_start": 1},
        expert_batch_size=8,
    )
    assert made.model.student_learning_rate.item() != 0
    assert (tmp_path / "experts" / "expert-0000.safetensors").exists()
    assert len(reads) == 1, "the experts' data are those of the run"
    with pytest.raises(ValueError, match="no test split"):
        made.evaluate()


class Watcher(TrainerCallback):
    def __init__(self, stop_at=None):
        self.events, self.stop_at = [], stop_at

    def on_train_begin(self, args, state, control, **more):
        self.events.append(("begin", state.global_step, type(more["model"]).__name__))

    def on_step_end(self, args, state, control, **more):
        if state.global_step == self.stop_at:
            control.should_training_stop = True

    def on_log(self, args, state, control, logs, **more):
        self.events.append(("log", state.global_step, sorted(logs)[:2]))

    def on_evaluate(self, args, state, control, metrics, **more):
        self.events.append(("evaluate", state.global_step, list(metrics)))

    def on_save(self, args, state, control, **more):
        self.events.append(("save", state.global_step))

    def on_train_end(self, args, state, control, **more):
        self.events.append(("end", state.global_step))


def test_a_trainer_tells_callbacks_and_is_ended_by_one(splits, tmp_path, capsys):
    def trainer(watcher, **more):
        args = HabaTrainingArguments(
            tmp_path / "run", objective="dm", logging_steps=2, **(SMALL | {"steps": 4} | more)
        )
        return HabaTrainer(args, splits["train"], splits["test"], callbacks=[watcher])

    first = trainer(Watcher(stop_at=2))
    output = first.train()
    assert (output.global_step, output.metrics["ended_by"]) == (2, "callback")
    assert first.callbacks[0].events == [
        *[("begin", 0, "HabaModel"), ("log", 2, ["l_con", "l_cos"]), ("save", 2), ("end", 2)],
    ]
    assert "distilling: step 2 of 4" in capsys.readouterr().err
    second = trainer(Watcher(), disable_tqdm=True)
    output = second.train()
    assert (output.global_step, output.metrics["ended_by"]) == (4, "steps"), "it goes on where it was ended"
    assert [event[:2] for event in second.callbacks[0].events] == [("begin", 2), ("log", 4), ("save", 4), ("end", 4)]
    assert "distilling" not in capsys.readouterr().err
    assert second.state.log_history[-1]["step"] == 4 and output.training_loss == pytest.approx(output.training_loss)
    found = second.evaluate(references="random")
    assert 0 <= found["eval_accuracy"] <= 1 and "eval_random_real_equal_storage_accuracy_std" in found
    second.save_model(tmp_path / "saved")
    assert (tmp_path / "saved" / "README.md").exists()
    with pytest.raises(ValueError, match="hub_model_id"):
        second.push_to_hub()


def test_validations_are_evaluations_of_a_trainer(splits, tmp_path):
    more = {"validate_every": 2, "validation_epochs": 1, "validation_fraction": 0.25}
    args = HabaTrainingArguments(tmp_path / "run", objective="dm", **(SMALL | more))
    watcher = Watcher()
    HabaTrainer(args, splits, callbacks=[watcher]).train()
    assert [event for event in watcher.events if event[0] == "evaluate"] == [
        ("evaluate", 1, ["eval_accuracy"]),
        ("evaluate", 2, ["eval_accuracy"]),
    ]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"objective": "dmm"}, "objective: expected one of dm, mtt"),
        ({"steps": "10"}, "steps: expected a whole number, got '10'"),
        ({"stepps": 10}, "unknown field 'stepps'; did you mean 'steps'"),
        ({"logging_steps": 0}, "logging_steps"),
        ({"push_to_hub": True}, "hub_model_id"),
        ({"recipe": "cifar10/dm-2ip"}, "cifar10/dm-2ipc"),
        ({"basis_learning_rate": float("nan")}, "basis_learning_rate: expected a finite number"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings, says):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        HabaTrainingArguments("x", **settings)
    assert says in str(error.value)
    assert "unknown" not in says or isinstance(error.value, RecipeError)


def test_what_is_no_data_set_is_refused():
    with pytest.raises(ValueError, match="The train split is a list"):
        distill([1, 2], steps=1)


def test_a_recipe_is_started_from_by_name():
    args = HabaTrainingArguments("out", recipe="cifar10/dm-2ipc", steps=5)
    assert (args.max_steps, args.recipe.model.storage_budget, args.recipe.data.dataset) == (5, 2.0, "cifar10")
    assert args.output_dir == args.recipe.distillation.output_dir == "out"


@pytest.mark.parametrize("soft", [False, True])
def test_trainer_of_transformers_runs_on_the_samples(tmp_path, soft):
    model = HabaModel.from_pretrained(tiny_artifact(tmp_path / "a", label_kind="soft" if soft else "hard"))
    samples = model.to_dataset()
    both = concatenate_datasets([samples, model.to_dataset()]).with_format("torch")
    assert both.num_rows == 2 * samples.num_rows
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    network = ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=4, **sizes))
    settings = {"max_steps": 3, "per_device_train_batch_size": 8, "report_to": "none", "use_cpu": True}
    loss = {"compute_loss_func": haba_hf.artifact.pairing.paired_cross_entropy} if soft else {}
    trainer = Trainer(network, TrainingArguments(str(tmp_path / "t"), **settings), train_dataset=both, **loss)
    assert trainer.train().global_step == 3


def test_a_network_of_ones_own_works_wherever_one_is_named(artifact, splits):
    class Own(nn.Module):
        def __init__(self, shape, num_labels):
            super().__init__()
            self.hidden, self.head = nn.Linear(int(np.prod(shape)), 6), nn.Linear(6, num_labels)

        def features(self, images):
            return self.hidden(images.flatten(1)).relu()

        def forward(self, images):
            return self.head(self.features(images))

    register_network("own", Own)
    student = artifact.train_student("own")
    assert isinstance(student, Own)
    same = artifact.train_student("own")
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), same.parameters(), strict=True)), "seeded"
    assert isinstance(train_student(artifact.model, Own((3, 8, 8), 3)), Own)
    assert artifact.evaluate(references="none", network="own", evaluation_seeds=1)[0].accuracy.mean >= 0
    with pytest.raises(ValueError, match="register_network"):
        artifact.train_student("another")
    with pytest.raises(ValueError, match="is a network of haba_hf"):
        register_network("convnet", Own)
    classifier = ResNetForImageClassification(
        ResNetConfig(num_labels=3, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    )
    assert train_student(artifact.model, classifier) is classifier


def test_an_artifact_without_a_word_on_training_says_so(tmp_path):
    model = HabaModel.from_pretrained(tiny_artifact(tmp_path / "a"))
    assert model.config.student_training is None
    with pytest.raises(ValueError, match="does not say how its students are trained"):
        train_student(model)
    with pytest.raises(ValueError, match="no setting epochs"):
        train_student(model, epochs=3)
    assert train_student(model, evaluation_learning_rate=0.01, student_epochs=1, network_depth=2, network_width=4)


def test_names_of_the_package_are_there_before_they_are_used():
    assert {"distill", "HabaTrainer", "train_student"} <= set(dir(haba_hf)) & set(haba_hf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        haba_hf.distil  # noqa: B018


def test_an_artifact_as_large_as_its_data_is_said(splits, tmp_path, capsys):
    small = SMALL | {"num_hallucinators": 0, "steps": 1}
    distill(splits, "dm", output_dir=str(tmp_path / "large"), bases_per_class=3, **small)
    assert "haba plan --max_bytes 633 --num_labels 3 --sample_shape 3 8 8" in capsys.readouterr().out
    distill(splits, "dm", output_dir=str(tmp_path / "small"), bases_per_class=1, **small)
    assert "haba plan" not in capsys.readouterr().out


TWO_PROCESSES = """
import sys

import torch
from datasets import Dataset, Features, ClassLabel
from datasets import Image as ImageFeature
from transformers import TrainerCallback

from haba_hf import HabaTrainer, HabaTrainingArguments
from haba_hf.runs import start_accelerator

class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        control.should_training_stop = state.global_step == 2 and accelerator.process_index == 1

accelerator = start_accelerator()
generator = torch.Generator().manual_seed(0)
images = [torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy() for _ in range(24)]
features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
data = Dataset.from_dict({"image": images, "label": [0, 1] * 12}, features=features)
args = HabaTrainingArguments(
    sys.argv[1], objective="dm", steps=5, real_batch_size=4, network_depth=1, network_width=4, num_hallucinators=0
)
trainer = HabaTrainer(args, data, callbacks=[Stop])
output = trainer.train()
found = output.global_step, output.metrics["ended_by"], trainer.model.bases.sum().item()
print("RESULT", accelerator.process_index, *found)
"""


@pytest.mark.slow
def test_a_callback_on_one_of_two_processes_ends_both(tmp_path):
    lines = launch_processes(tmp_path, TWO_PROCESSES, str(tmp_path / "run"))
    first, second = (line.split()[1:] for line in lines)
    assert [first[:3], second[:3]] == [["0", "2", "callback"], ["1", "2", "callback"]]
    assert first[3] == second[3]
