"""A recipe from real data to a table, in one process, on an image folder of one's own."""

import json
import shutil
from importlib import metadata

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

from haba_hf import HabaModel
from haba_hf.evaluation import hallucinator_variety, markdown_table
from haba_hf.evaluation.scores import label_robust_score
from haba_hf.hub import export_artifact, read_artifact
from haba_hf.recipes import parse_recipe
from haba_hf.runs import (
    distill,
    embed,
    evaluate,
    load_artifact,
    select_coreset,
    train_one_student,
)
from haba_hf.runs.distilling import run_settings
from haba_hf.utils.fingerprints import weights_fingerprint
from tiny import tiny_accelerator

REFERENCES = ["random real, equal storage", "random real, equal bytes", "full data"]


@pytest.mark.parametrize("include_code", [True, False])
def test_what_was_distilled_can_be_exported_and_read_again(recipe_of, tmp_path, include_code):
    """Its record holds fingerprints, which must not depend on whether the code travels along."""
    artifact = distill(recipe_of(), tiny_accelerator())
    assert "processor_fingerprint" in json.loads((artifact / "distillation.json").read_text())
    exported = export_artifact(artifact, tmp_path / "exported", include_code=include_code)
    again = export_artifact(exported, tmp_path / "again", include_code=include_code)
    for folder in (exported, again):
        read, model = read_artifact(folder).model, read_artifact(artifact).model
        assert all(torch.equal(value, read.state_dict()[name]) for name, value in model.state_dict().items())


def test_distillation_is_of_float32_however_it_was_launched(recipe_of, tmp_path):
    found = []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        artifact = distill(recipe_of(output_dir=tmp_path / precision), accelerator)
        found.append(json.loads((artifact / "distillation.json").read_text()))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert found[0]["weights_fingerprint"] == found[1]["weights_fingerprint"]
    assert [record["mixed_precision"] for record in found] == ["no", "no"]


def test_distill_and_evaluate_an_image_folder(recipe_of, tmp_path):
    recipe, accelerator = recipe_of(), tiny_accelerator()
    artifact = distill(recipe, accelerator)
    assert artifact == tmp_path / "run" / "artifact"

    model, processor, _ = load_artifact(str(artifact))
    assert model.config.id2label == {0: "green tea", 1: "lava", 2: "sky"}
    assert model.config.sample_shape == (3, 8, 8)
    assert model.class_ids.tolist() == [0, 1, 2]
    assert type(AutoModel.from_pretrained(artifact)) is HabaModel
    assert processor.to_dict() == AutoImageProcessor.from_pretrained(artifact).to_dict()
    assert processor(Image.new("RGB", (30, 20)))["pixel_values"].shape == (1, 3, 8, 8)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]

    provenance = json.loads((artifact / "distillation.json").read_text())
    assert provenance.pop("seconds") > 0
    assert provenance.pop("peak_memory_bytes") > 10**8, "torch alone takes more"
    assert len(provenance.pop("data_fingerprint")) == 16
    assert provenance.pop("weights_fingerprint") == weights_fingerprint(model)
    assert len(provenance.pop("processor_fingerprint")) == 16
    assert provenance.pop("device")
    assert provenance.pop("python").startswith("3.")
    assert provenance.pop("hallucinator_variety") == round(hallucinator_variety(model), 4)
    libraries = ("haba_hf", "torch", "transformers", "datasets", "accelerate")
    assert provenance == {
        "recipe_hash": recipe.hash,
        "dataset": "pictures",
        "train_images": 18,
        "train_images_per_class": [6, 6, 6],
        "bases_per_class": 1,
        "samples_per_class": 2,
        "steps": 5,
        "ended_by": "steps",
        "processes": 1,
        "threads": torch.get_num_threads(),
        "mixed_precision": "no",
        "versions": {name: metadata.version(name) for name in libraries},
    }
    assert parse_recipe([str(artifact / "recipe.yaml")]) == recipe

    rows = evaluate(recipe, accelerator)
    assert [row.system for row in rows] == ["HaBa, 2 hallucinators", *REFERENCES]
    assert all(len(row.accuracy.accuracies) == 2 for row in rows)
    haba, random_real, as_bytes, full = rows
    # 3 bases of 192 values, 2 hallucinators of 2 x 192 scales and shifts and 2 x 84 of convolutions, 1 learning rate.
    assert haba.storage.floats == 3 * 192 + 2 * (2 * 192 + 2 * 84) + 1
    assert random_real.storage.floats == 2 * 3 * 192 + 1
    assert random_real.storage.floats <= haba.storage.floats
    assert as_bytes.storage.bytes <= haba.storage.bytes and as_bytes.storage.floats == as_bytes.storage.bytes
    assert as_bytes.storage.images_per_class == 6, "a class has no more"
    assert haba.accuracy.steps == 40 and haba.accuracy.samples == 40 * 3
    assert full.storage.images_per_class == 6, "two of eight images a class are held out"
    assert full.accuracy.mean > 0.9, "colors are easily told apart"
    assert random_real.accuracy.mean > 0.6

    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["accuracy"]["accuracies"] for row in results["rows"]] == [row.accuracy.accuracies for row in rows]
    assert results["artifact"] == str(artifact)
    assert results["weights_fingerprint"] == weights_fingerprint(model)
    assert results["recipe_hash"] == recipe.hash
    ior, hlr = haba.accuracy.mean - random_real.accuracy.mean, full.accuracy.mean - haba.accuracy.mean
    assert results["scores"] == pytest.approx(
        {
            "improvement_over_random": ior,
            "hard_label_recovery": hlr,
            "label_robust_score": label_robust_score(ior, hlr),
        }
    )
    assert results["settings"]["student_epochs"] == 40
    assert results["settings"]["network_width"] == 8
    assert results["versions"]["torch"] == metadata.version("torch")


def test_a_run_that_ends_by_its_time(recipe_of):
    artifact = distill(recipe_of(max_minutes=1e-9), tiny_accelerator())
    provenance = json.loads((artifact / "distillation.json").read_text())
    assert (provenance["steps"], provenance["ended_by"]) == (1, "max_minutes")


def test_a_checkpoint_depends_on_what_its_objective_reads():
    def hash_of(objective, **changes):
        return run_settings(
            parse_recipe([f"--{name}={value}" for name, value in {"objective": objective, **changes}.items()])
        )

    reads = {
        "dm": ["network_bank"],
        "mtt": ["num_experts", "student_steps"],
        "dc": ["inner_epochs"],
        "dsa": ["outer_steps"],
        "idc": ["outer_steps", "idc_real_samples"],
        "cafe": ["accuracy_window"],
        "dd": [],
        "ld": ["restart_window"],
        "linear": ["linear_heads"],
    }
    own = {name for names in reads.values() for name in names}
    for objective, names in reads.items():
        plain = hash_of(objective)
        for name in ("steps", "bases_per_class", "network_width", "adversary_bases", "validation_fraction"):
            value = 0.3 if name == "validation_fraction" else 7
            assert hash_of(objective, **{name: value}) != plain, (objective, name)
        for name in own - {"inner_epochs", "outer_steps"} | set(names):
            assert (hash_of(objective, **{name: 7}) != plain) == (name in names), (objective, name)
        for name in ("student_epochs", "perplexity", "coreset_epochs", "validation_epochs"):
            assert hash_of(objective, **{name: 7}) == plain, (objective, name)


def test_a_checkpoint_depends_on_the_validation_that_chooses_its_step():
    def hash_of(**changes):
        given = {"keep_best": True, "validate_every": 5, **changes}
        return run_settings(parse_recipe([f"--{name}={value}" for name, value in given.items()]))

    for name in ("validate_every", "validation_seeds", "validation_epochs", "student_epochs", "steps"):
        assert hash_of(**{name: 7}) != hash_of(), name
    assert hash_of(perplexity=7) == hash_of()


def test_plain_pixels_with_validation_keep_the_best(recipe_of, tmp_path):
    recipe = recipe_of(
        num_hallucinators=0,
        bases_per_class=2,
        validate_every=2,
        validation_epochs=3,
        keep_best=True,
        references="none",
    )
    artifact = distill(recipe, tiny_accelerator())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validated = {line["step"]: line["validation_accuracy"] for line in lines if "validation_accuracy" in line}
    assert list(validated) == [2, 4, 5]
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000005" / "state.json").read_text())
    best = max(validated, key=validated.get)
    assert state["best"] == {"step": best, "validation_accuracy": validated[best]}
    kept = load_file(tmp_path / "run" / "checkpoints" / f"best-{best:08d}" / "model.safetensors")
    assert torch.equal(kept["bases"], load_file(artifact / "model.safetensors")["bases"])
    (row,) = evaluate(recipe, tiny_accelerator())
    assert row.system == "plain pixels"
    assert row.storage.floats == 2 * 3 * 192 + 1


def test_one_objective_starts_from_anothers_artifact(recipe_of, tmp_path):
    small = {"num_hallucinators": 0, "bases_per_class": 4, "basis_storage": "luma_chroma"}
    small |= {"basis_height": 4, "basis_width": 4}
    first = distill(recipe_of(**small), tiny_accelerator())
    started = recipe_of(**small, init_from=first, steps=1, basis_learning_rate=1e-9, output_dir=tmp_path / "second")
    second = distill(started, tiny_accelerator())
    models = [load_artifact(str(path))[0] for path in (first, second)]
    torch.testing.assert_close(models[0].bases, models[1].bases, atol=1e-6, rtol=0)
    provenance = json.loads((second / "distillation.json").read_text())
    assert provenance["started_from"] == weights_fingerprint(models[0])
    # What a folder holds may have changed since: a run of other weights does not go on from this one's checkpoint.
    distill(recipe_of(**small, steps=7, output_dir=tmp_path / "third"), tiny_accelerator())
    shutil.rmtree(first)
    shutil.copytree(tmp_path / "third" / "artifact", first)
    with pytest.raises(ValueError, match=r"was written with other settings \(started_from"):
        distill(started, tiny_accelerator())


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "dc"},
        {"objective": "dsa", "num_hallucinators": 0, "bases_per_class": 2},
        {
            "objective": "idc",
            "formation_factor": 2,
            "basis_init": "mix",
            "hallucinator_init": "identity",
            "dsa": "color+crop+cutout",
            "idc_real_samples": 10,
            "outer_steps": 3,
            "evaluation_dsa": "color+crop_scale_rotate",
            "evaluation_cutmix": 0.5,
            "evaluation_schedule": "two_steps",
        },
    ],
    ids=["dc", "dsa, plain pixels", "idc"],
)
def test_gradient_matching_from_recipe_to_table(recipe_of, tmp_path, changes):
    recipe = recipe_of(references="none", inner_epochs=1, **changes)
    model, _, _ = load_artifact(str(distill(recipe, tiny_accelerator())))
    formations = changes.get("formation_factor", 1) ** 2
    hallucinators = changes.get("num_hallucinators", 2)
    samples = 3 * changes.get("bases_per_class", 1) * max(hallucinators, 1) * formations
    assert model.materialize().samples.shape == (samples, 3, 8, 8)
    losses = [json.loads(line)["l_dd"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(set(losses)) == 5
    (row,) = evaluate(recipe, tiny_accelerator())
    assert row.accuracy.mean > 0.5, "three colors, three classes"
    assert row.storage.floats == model.config.num_floats


def test_a_finished_run_is_left_as_it_is_and_another_recipe_is_refused(recipe_of, tmp_path):
    recipe, accelerator = recipe_of(), tiny_accelerator()
    weights = distill(recipe, accelerator) / "model.safetensors"
    written = weights.read_bytes()
    assert (distill(recipe, accelerator) / "model.safetensors").read_bytes() == written
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 5
    with pytest.raises(
        ValueError, match=r"step-00000005 was written with other settings .* choose another output_dir"
    ):
        distill(recipe_of(basis_learning_rate=0.5), accelerator)
    assert weights.read_bytes() == written


def test_a_whitened_run_from_data_to_student(recipe_of, tmp_path):
    recipe, accelerator = recipe_of(zca=True, basis_channels=1), tiny_accelerator()
    artifact = distill(recipe, accelerator)
    model, processor, _ = load_artifact(str(artifact))
    assert model.config.whitening == processor.whitening_fingerprint is not None
    plain = recipe_of(output_dir=tmp_path / "plain")
    records = [json.loads((distill(each, accelerator) / "distillation.json").read_text()) for each in (recipe, plain)]
    assert records[0]["data_fingerprint"] != records[1]["data_fingerprint"], "experts of the other are not its own"

    haba, random_real, _, full = evaluate(recipe, accelerator)
    # A mean of 192 values and a matrix of 192 x 192, for the artifact and for random images alike.
    assert haba.storage.whitening_bytes == random_real.storage.whitening_bytes == 4 * 192 * 193
    assert haba.storage.bytes == 4 * model.config.num_floats + haba.storage.whitening_bytes
    assert haba.storage.images_per_class < 3 and full.storage.whitening_bytes == 0
    assert "ZCA whitening of 148,224 bytes" in markdown_table([haba, random_real, full])
    assert read_artifact(artifact).row("full data").accuracy.mean == full.accuracy.mean

    train_one_student(recipe, accelerator)
    student = AutoImageProcessor.from_pretrained(tmp_path / "run" / "student")
    assert student.whitening_fingerprint == processor.whitening_fingerprint
    embed(recipe_of(zca=True, perplexity=3, embedded_images=4), accelerator)
    chosen = recipe_of(zca=True, num_hallucinators=0, coreset="random", output_dir=tmp_path / "coreset")
    model, processor, _ = load_artifact(str(select_coreset(chosen, accelerator)))
    assert model.config.whitening == processor.whitening_fingerprint == student.whitening_fingerprint


def test_whitened_bases_have_no_range_to_be_clamped_to(recipe_of):
    fields = {"objective": "idc", "idc_real_samples": 6, "outer_steps": 2, "zca": True}
    with pytest.raises(ValueError, match="clamp_bases needs normalized pixels"):
        distill(recipe_of(clamp_bases=True, **fields), tiny_accelerator())
    distill(recipe_of(**fields), tiny_accelerator())


def test_validation_needs_a_validation_split(recipe_of, tmp_path):
    with pytest.raises(ValueError, match="set validation_fraction above 0"):
        distill(recipe_of(validate_every=1, validation_fraction=0), tiny_accelerator())
    assert not (tmp_path / "run").exists()


def test_an_artifact_over_budget_is_refused_before_any_work(recipe_of, tmp_path):
    # 3 bases of 192 values and 2 hallucinators of 552: 1,680 floats, 2.92 images per class.
    with pytest.raises(ValueError, match=r"1 bases per class .* 2\.9 images per class|2\.9 images per class pay for"):
        distill(recipe_of(storage_budget=2.9, objective="mtt"), tiny_accelerator())
    assert not (tmp_path / "run").exists()
    recipe = recipe_of(storage_budget=3)
    distill(recipe, tiny_accelerator())
    assert recipe.hash == recipe_of().hash, "a budget changes no result"
    distill(recipe_of(), tiny_accelerator())  # the checkpoint is this recipe's
