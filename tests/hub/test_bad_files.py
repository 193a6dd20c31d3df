"""Files that are whole JSON or safetensors, and still no artifact's."""

import json

import pytest

from haba_hf.hub import read_artifact
from tiny_artifact import tiny_artifact

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def artifact(tmp_path):
    return tiny_artifact(tmp_path, analysed=True)


def refusal(artifact):
    with pytest.raises((ValueError, OSError)) as caught:
        read_artifact(artifact)
    assert "\n" not in str(caught.value).strip() and len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "distillation.json"])
@pytest.mark.parametrize("content", ["[]", "null", "3", DEEP, '{"a": ', "{}x", "\udcff"], ids=range(7))
def test_json_that_is_no_settings(artifact, name, content):
    (artifact / name).write_bytes(content.encode(errors="surrogateescape"))
    assert name in refusal(artifact)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bases_per_class", "many"),
        ("bases_per_class", 1.5),
        ("bases_per_class", None),
        ("hallucinator_depth", [1]),
        ("share_encoder_decoder", "no"),
        ("student_learning_rate", "fast"),
        ("num_bases", 8),  # properties
        ("sample_shape", [1, 8, 8]),
        ("storage_parts", {}),
        ("id2label", {"0": "a", "1": "b", "2": "c", "7": "d"}),
        ("id2label", {"0": "a"}),
        ("id2label", ["a", "b", "c", "d"]),
        ("id2label", {"zero": "a"}),
        ("id2label", None),
        ("model_type", 3),
        ("dtype", ["float32"]),
    ],
)
def test_fields_of_a_config(artifact, field, value):
    path = artifact / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    refusal(artifact)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", None),
        ("size", {"height": "8", "width": 8}),
        ("size", {"height": 8.0, "width": 8}),
        ("size", [8, 8]),
        ("image_mean", 3),
        ("image_mean", ["a"]),
        ("image_std", [0.0]),
        ("num_channels", "one"),
        ("image_processor_type", None),
        ("unheard_of", 1),
    ],
)
def test_fields_of_a_processor(artifact, field, value):
    path = artifact / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    refusal(artifact)


@pytest.mark.parametrize(
    ("name", "field", "value", "says"),
    [
        ("distillation.json", "train_images", "many", "train_images in .* is not a whole number"),
        ("distillation.json", "train_images", True, "train_images in .* is not a whole number"),
        ("distillation.json", "train_images_per_class", [1, "two"], "is not whole numbers"),
        ("distillation.json", "seconds", None, "seconds in .* is not a number"),
        ("distillation.json", "versions", ["torch"], "versions in .* is not names and values"),
        ("distillation.json", "dataset", 3, "dataset in .* is not text"),
        ("../results.json", "settings", "none", "settings in .* is not names and values"),
        ("../results.json", "rows", {"a": 1}, "is not what an evaluation writes"),
        ("../results.json", "rows", [[]], "is not what an evaluation writes"),
        ("../cross_architecture.json", "rows", [{"architecture": "convnet"}], "is not what an evaluation writes"),
        ("../robustness.json", "systems", 3, "is not what an evaluation writes"),
        ("../robustness.json", "systems", [{"attacks": {"FGSM": 3}}], "is not what an evaluation writes"),
    ],
)
def test_fields_of_records(artifact, name, field, value, says):
    path = artifact / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=says):
        read_artifact(artifact)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_json_does_not_have(artifact, number):
    path = artifact.parent / "results.json"
    record = json.loads(path.read_text())
    record["rows"][0]["accuracy"]["mean"] = "here"
    path.write_text(json.dumps(record).replace('"here"', number))
    with pytest.raises(ValueError, match=r"results\.json (cannot be read|is not what an evaluation writes)"):
        read_artifact(artifact)
