"""Launches every script in training/ as a user would, for a few steps, and looks at the files it leaves."""

import json
import statistics
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_model
from transformers import AutoImageProcessor

from haba_hf import HabaModel
from haba_hf.data import DataArguments, load_image_data
from haba_hf.evaluation import accuracy
from haba_hf.networks import NetworkArguments, build_network
from training_scripts import (
    DM,
    ENVIRONMENT,
    EVALUATION,
    MTT,
    NETWORK,
    ROOT,
    TO,
    TRAINING,
    check_run,
    in_two_processes,
    metrics_of,
    run_script,
)


def test_distribution_matching_in_two_processes_then_evaluate_and_train_a_student(run_here, tmp_path, capfd):
    """`haba` is distilled, evaluated and trained on; every number that is printed is in the files."""
    where = ["--output_dir", tmp_path]
    run_script("distill.py", *DM, *where, launch=in_two_processes())
    check_run(tmp_path, steps=4, num_hallucinators=5)
    events = [path for path in tmp_path.rglob("events.out.tfevents*") if path.stat().st_size]
    assert events, "tensorboard is the default tracker"
    assert json.loads((tmp_path / "artifact" / "distillation.json").read_text())["processes"] == 2

    capfd.readouterr()
    run_here("evaluate.py", *DM, *EVALUATION, *where)
    printed = capfd.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())

    def in_percent(accuracies):
        return f"| {100 * statistics.fmean(accuracies):.1f} ± {100 * statistics.pstdev(accuracies):.1f} "

    plain, balanced = (
        [in_percent(row["accuracy"][name]) for row in results["rows"]]
        for name in ("accuracies", "balanced_accuracies")
    )
    balanced = balanced if balanced != plain else [""] * len(plain)  # a column of its own where they differ
    expected = [
        f"| {row['system']} {accuracy}{of_classes}"
        f"| {row['storage']['floats']:,} | {row['storage']['bytes']:,} | {row['storage']['images_per_class']:.2f} "
        f"| {row['storage']['ratio']:.3%} | {row['accuracy']['steps']:,} | {row['accuracy']['samples']:,} "
        f"| {row['accuracy']['seconds']:.0f} |"
        for row, accuracy, of_classes in zip(results["rows"], plain, balanced, strict=True)
    ]
    assert [line for line in printed.splitlines() if line.startswith("| ")][2:] == expected
    systems = [row["system"] for row in results["rows"]]
    assert systems == ["HaBa, 5 hallucinators", "random real, equal storage", "random real, equal bytes", "full data"]
    assert all(len(row["accuracy"]["accuracies"]) == 2 for row in results["rows"])
    assert results["settings"]["student_epochs"] == 3

    run_here("train_student.py", *DM, *EVALUATION, *where)
    printed = capfd.readouterr().out
    settings = json.loads((tmp_path / "student" / "student.json").read_text())
    assert settings["accuracy"] == results["rows"][0]["accuracy"]["accuracies"][0]
    assert f"{100 * settings['accuracy']:.1f} %" in printed
    network = build_network(NetworkArguments(**settings["network"]), settings["image_shape"], 10, seed=1)
    load_model(network, tmp_path / "student" / "model.safetensors")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "student")
    test = load_image_data(DataArguments()).test
    assert accuracy(network, test.images, test.labels, processor) == settings["accuracy"]


@pytest.mark.slow
def test_trajectory_matching_from_experts_to_artifacts(run_here, tmp_path, capfd):
    experts = tmp_path / "experts"
    shared = [*NETWORK, *MTT, "--experts_dir", experts, "--num_experts", "2"]
    run_here("record_experts.py", *shared)
    assert "2 x 3 snapshots" in capfd.readouterr().out
    files = sorted(experts.iterdir())
    assert [file.name for file in files] == ["expert-0000.safetensors", "expert-0001.safetensors"]
    written = [file.stat().st_mtime_ns for file in files]

    run_here("distill.py", *shared, *TO, tmp_path / "haba")
    check_run(tmp_path / "haba", steps=3, num_hallucinators=5)
    rates = [line["student_learning_rate"] for line in metrics_of(tmp_path / "haba")]
    model = HabaModel.from_pretrained(tmp_path / "haba" / "artifact")
    assert len(set(rates)) == 3
    assert model.student_learning_rate.item() not in rates, "what is logged is the rate before the step"

    run_here("record_experts.py", *shared)
    plain = ["--num_hallucinators", "0", "--micro_batch_size", "8"]
    run_here("distill.py", *shared, *plain, *TO, tmp_path / "plain")
    check_run(tmp_path / "plain", steps=3, num_hallucinators=0)
    assert json.loads((tmp_path / "plain/artifact/distillation.json").read_text())["experts_mixed_precision"] == "no"
    assert [file.stat().st_mtime_ns for file in files] == written, "experts that are there are kept"


@pytest.mark.slow
def test_coresets_are_chosen_and_evaluated(run_here, tmp_path, capfd):
    shared = [TRAINING / "recipes" / "digits" / "forgetting-1pc.yaml", *NETWORK, "--coreset_epochs", "2"]
    shared += ["--coreset_dir", tmp_path / "coresets"]
    run_here("select_coreset.py", *shared, "--output_dir", tmp_path / "forgetting")
    assert f"{tmp_path / 'forgetting' / 'artifact'}: 10 of 1,293 training images" in capfd.readouterr().out
    (features,) = (tmp_path / "coresets").iterdir()
    written = features.stat().st_mtime_ns
    herding = [*shared, "--coreset", "herding", "--bases_per_class", "2", "--output_dir", tmp_path / "herding"]
    run_here("select_coreset.py", *herding)
    assert features.stat().st_mtime_ns == written, "one expert serves all coresets"
    for name, images_per_class in (("forgetting", 1), ("herding", 2)):
        artifact = tmp_path / name / "artifact"
        assert HabaModel.from_pretrained(artifact).materialize().samples.shape == (10 * images_per_class, 1, 8, 8)
        assert json.loads((artifact / "coreset.json").read_text())["coreset"] == name
        assert {"gallery.png", "preprocessor_config.json", "recipe.yaml"} <= {path.name for path in artifact.iterdir()}
    run_here("evaluate.py", *herding, *EVALUATION, "--references", "none")
    (row,) = json.loads((tmp_path / "herding" / "results.json").read_text())["rows"]
    assert row["system"] == "coreset, herding"


@pytest.mark.slow
def test_other_architectures_and_an_embedding(run_here, error_of, tmp_path, capfd):
    where = [*NETWORK, *TO, tmp_path]
    run_here("distill.py", *where, "--steps", "1", "--real_batch_size", "8", "--num_hallucinators", "2")
    capfd.readouterr()
    run_here("evaluate.py", *where, *EVALUATION, "--architectures", "convnet", "transformers/convnext")
    printed = capfd.readouterr().out.splitlines()
    rows = json.loads((tmp_path / "cross_architecture.json").read_text())["rows"]
    assert [row["architecture"] for row in rows] == ["convnet", "transformers/convnext"]
    assert [line.split(" | ")[:3] for line in printed if line.startswith("| ")][2:] == [
        [
            f"| {row['architecture']}",
            f"{100 * row['accuracy']['mean']:.1f} ± {100 * row['accuracy']['std']:.1f}",
            f"{row['parameters']:,}",
        ]
        for row in rows
    ]
    assert not (tmp_path / "results.json").exists()

    run_here("embed.py", *where, *EVALUATION, "--embedded_classes", "3", "7", "--embedded_images", "20")
    assert f"{tmp_path / 'embedding.png'}: written" in capfd.readouterr().out
    with Image.open(tmp_path / "embedding.png") as picture:
        picture.load()
    assert len(json.loads((tmp_path / "embedding.json").read_text())["points"]) == 2 * (20 + 2)
    assert "made for uint8 color images" in error_of("robustness.py", *where)
    assert "VGG11 needs images of 28x28 pixels or more, got 8x8" in error_of(
        "evaluate.py", *where, "--architectures", "convnet", "vgg11"
    )


@pytest.mark.slow
def test_a_published_artifact_gives_what_its_card_says():
    """By the call that the card shows; of the artifact whose data are here."""
    words = [sys.executable, "training/check_published.py", "digits-dm-1pc"]
    shown = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    _, student, first, _ = shown.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert float(student) == pytest.approx(float(first), abs=1.0), "the last digits are a machine's"


@pytest.mark.slow
def test_demo(tmp_path):
    tiny = ["--steps", "2", "--real_batch_size", "4", "--network_width", "4", "--evaluation_steps", "3", *EVALUATION]
    printed = run_script("demo.py", "--output_dir", tmp_path, "--", *tiny)
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    systems = ["40 frequencies, int8", "random real, same storage", "random real, equal bytes", "full data"]
    for system in [*systems, "plain pixels", "HaBa, 5 hallucinators"]:
        assert any(row.startswith(f"| {system} |") for row in rows), system
    for run, hallucinators in (("int8", 0), ("haba", 5), ("pixels", 0)):
        assert HabaModel.from_pretrained(tmp_path / run / "artifact").config.num_hallucinators == hallucinators
        assert (tmp_path / run / "artifact" / "gallery.png").is_file()


def test_a_backbone_for_probes(run_here, tmp_path):
    run_here("train_backbone.py", tmp_path, "digits", "--classes", 0, 1, 7, "--image_size", 16, "--epochs", 20)
    data = load_image_data(DataArguments("digits"))
    probe = build_network(NetworkArguments(f"probe/{tmp_path}"), (1, 8, 8), 10, 0, data.processor)
    assert probe.backbone.size == (16, 16)
    features = probe.features(data.processor.normalize(data.test.images))
    means = torch.stack([features[data.test.labels == label].mean(dim=0) for label in (0, 1, 7)])
    known = torch.isin(data.test.labels, torch.tensor([0, 1, 7]))
    nearest = torch.tensor([0, 1, 7])[torch.cdist(features[known], means).argmin(dim=1)]
    assert (nearest == data.test.labels[known]).float().mean() > 0.6, "it knows the classes it was given"
