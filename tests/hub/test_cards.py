"""Cards state what the artifact's files say, load when pasted, and let nothing of a file be more than text."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from fake_hub import environment_of, serving
from haba_hf import published_artifact
from haba_hf.evaluation import hallucinator_variety
from haba_hf.hub import (
    artifact_facts,
    artifact_summary,
    push_artifact,
    read_artifact,
    render_dataset_card,
    render_model_card,
)
from haba_hf.hub.cards import eval_results_yaml
from haba_hf.hub.sources import SOURCES, source_of
from haba_hf.utils.text import escape_markdown
from tiny_artifact import CLASS_NAMES, tiny_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return read_artifact(tiny_artifact(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory):
    return read_artifact(tiny_artifact(tmp_path_factory.mktemp("run"), evaluated=False))


@pytest.fixture(params=[render_model_card, render_dataset_card], ids=["model", "dataset"])
def render(request):
    return request.param


def test_every_figure_is_in_the_results(artifact, render):
    card = render(artifact, "me/tiny")
    stated = re.findall(r"\d+\.\d+ ± \d+\.\d+", card)
    expected = [f"{100 * row.accuracy.mean:.1f} ± {100 * row.accuracy.std:.1f}" for row in artifact.rows]
    assert expected == ["81.2 ± 1.2", "70.1 ± 4.6", "93.8 ± 7.9"]
    assert stated == expected[:1] + expected, "the artifact's own at the head, and the table"
    assert re.search(r"improvement over random .* \| \+11\.1 points \|", card), "81.25 - 70.11"
    assert re.search(r"hard-label recovery.* \| \+12\.5 points \|", card), "93.77 - 81.25"
    assert "| label-robust score, 0 to 1, of fractions | 0.266 |" in card
    assert "student epochs 40, seed 3" in card
    assert "scored once on the test split" in card


def test_without_results_no_figure_is_stated(unmeasured, render):
    card = render(unmeasured, "me/tiny")
    assert "±" not in card
    assert "Not measured: there is no `results.json`." in card
    assert not {"model-index", "metrics"} & ModelCard(card).data.to_dict().keys()
    assert "recovery" not in card
    assert eval_results_yaml(unmeasured) is None


def test_rows_that_were_not_measured_make_no_measure(artifact, render, tmp_path):
    results = tmp_path / "results.json"
    directory = tiny_artifact(tmp_path)
    content = json.loads(results.read_text())
    results.write_text(json.dumps(content | {"rows": content["rows"][:2]}))
    card = render(read_artifact(directory), "me/tiny")
    assert "improvement over random" in card
    assert "recovery" not in card
    results.write_text(json.dumps(content | {"rows": content["rows"][:1]}))
    assert "| measure |" not in render(read_artifact(directory), "me/tiny")


def test_what_was_analysed_is_stated_and_nothing_else(tmp_path, render):
    """Every accuracy of the card is in a file of the run, recomputed here without the code that writes tables."""
    directory = tiny_artifact(tmp_path, analysed=True)
    card = render(read_artifact(directory), "me/tiny")
    results, across, corrupted = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("results", "cross_architecture", "robustness")
    )
    points = [(row["accuracy"]["mean"], row["accuracy"]["std"]) for row in results["rows"] + across["rows"]]
    (system,) = corrupted["systems"]
    scores = np.array(list(system["accuracies"].values()))  # [corruptions, severities, students]
    assert (scores == scores[:1]).all(), "the same of every corruption here, so that 19 and 15 agree"
    of_severities = [np.array(system["clean"]), *scores.mean(axis=0)]
    points += 2 * [(of_students.mean(), of_students.std()) for of_students in of_severities]
    points = [points[0], points[len(results["rows"]) + 1], *points]  # the table at the head has one for each network
    expected = [f"{100 * mean:.1f} ± {100 * std:.1f}" for mean, std in points]
    assert re.findall(r"\d+\.\d+ ± \d+\.\d+", card) == expected
    assert "| convnet | vgg11 |\n|---|---|\n| 81.2 ± 1.2 | 65.4 ± 3.2 |" in card
    assert "| vgg11 | 65.4 ± 3.2 | 56,789 | 2 |" in card
    assert card.count("Scored on the test split. Settings: network convnet, student epochs 40, seed 3.") == 2
    assert "![Accuracy against severity](robustness.png)" in card
    assert "Not measured" not in card


def test_the_table_at_the_head_is_of_one_split(tmp_path, render):
    directory, path = tiny_artifact(tmp_path, analysed=True), tmp_path / "cross_architecture.json"
    record = json.loads(path.read_text())
    record["settings"]["evaluation_split"] = "validation"
    path.write_text(json.dumps(record))
    assert "| convnet |\n|---|\n| 81.2 ± 1.2 |\n" in render(read_artifact(directory), "me/tiny")


def test_attacks_are_stated_and_older_files_without_them_are_read(tmp_path, render):
    directory, path = tiny_artifact(tmp_path, analysed=True), tmp_path / "robustness.json"
    record = json.loads(path.read_text())
    (system,) = record["systems"]
    older = {name: value for name, value in system.items() if name not in ("attacks", "epsilons")}
    path.write_text(json.dumps(record | {"systems": [older]}))
    assert "Under attack" not in render(read_artifact(directory), "me/tiny")
    scores = {"FGSM": [[0.5, 0.7], [0.1, 0.3]], "PGD": [[0.4, 0.6], [0.0, 0.1]]}
    settings = record["settings"] | {"attack_epsilons": [1.0, 4.0], "attack_steps": 7}
    attacked = {"systems": [older | {"attacks": scores, "epsilons": [1.0, 4.0]}], "settings": settings}
    path.write_text(json.dumps(record | attacked))
    artifact = read_artifact(directory)
    assert artifact.robustness[0].attacks == scores
    card = render(artifact, "me/tiny")
    assert "| HaBa, 3 hallucinators | PGD | 81.2 ± 1.2 | 50.0 ± 10.0 | 5.0 ± 5.0 |" in card
    assert r"attack epsilons \[1.0, 4.0\], attack steps 7" in card
    facts = artifact_facts(artifact)["robustness"][0]
    assert facts["epsilons"] == [1.0, 4.0] and facts["attack_curves"]["FGSM"][2] == pytest.approx((0.2, 0.1))


def test_how_different_the_samples_of_a_basis_are_is_told_where_there_are_several(tmp_path):
    artifact = read_artifact(tiny_artifact(tmp_path))
    variety = hallucinator_variety(artifact.model)
    assert artifact_facts(artifact)["hallucinator_variety"] == variety
    sentence = f"samples that hallucinators make of one basis have {variety:.2f} of the variance of all samples"
    assert sentence in artifact_summary(artifact)
    plain = read_artifact(published_artifact("fashion_mnist-dc-1pc-pixels"))
    assert artifact_facts(plain)["hallucinator_variety"] is None
    assert not any("hallucinators make" in paragraph for paragraph in artifact_summary(plain))


def test_the_accuracy_of_each_class_is_told(tmp_path):
    directory, path = tiny_artifact(tmp_path), tmp_path / "results.json"
    record = json.loads(path.read_text())
    record["rows"][0]["accuracy"] |= {"class_accuracies": [0.5, None, 1.0, 0.25], "balanced_accuracies": [0.6, 0.5]}
    path.write_text(json.dumps(record))
    told = artifact_summary(read_artifact(directory))[-1]
    assert re.fullmatch(r"Accuracy \(%\) of each class: .* 50\.0, .* 100\.0, .* 25\.0", told)
    record["rows"][0]["accuracy"]["class_accuracies"] = [0.5]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"is not the artifact that its results\.json is of"):
        read_artifact(directory)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([12, 12, 12, 12], "54,000 training images, 12 of each class"),
        ([4000, 12, 30, 5], r"54,000 training images; .* 4,000, .* 12, .* 30, .* 5"),
        ([4, 1200], "54,000 training images, 4 to 1,200 of a class"),
    ],
)
def test_training_images_of_each_class_are_stated(tmp_path, render, counts, words):
    """All of them if they are the same, each of few classes, or the least and the most."""
    directory = tiny_artifact(tmp_path)
    path = directory / "distillation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"train_images_per_class": counts}))
    card = render(read_artifact(directory), "me/tiny")
    assert re.search(rf"\| data \| {words} \|", card)


def test_the_precision_told_is_that_of_experts(tmp_path, render):
    """A distillation's own is float32, whatever it was launched with; its older records name the launcher's."""
    directory = tiny_artifact(tmp_path)
    path = directory / "distillation.json"
    record = json.loads(path.read_text()) | {"mixed_precision": "bf16"}
    path.write_text(json.dumps(record))
    assert "bf16" not in render(read_artifact(directory), "me/tiny")
    path.write_text(json.dumps(record | {"experts_mixed_precision": "bf16"}))
    assert "| experts | trained in bf16 |" in render(read_artifact(directory), "me/tiny")


def test_each_measurement_that_lacks_is_said_to_lack(artifact, render, tmp_path):
    card = render(artifact, "me/tiny")
    assert "Not measured: there is no `cross_architecture.json`." in card
    assert "Not measured: there is no `robustness.json`." in card
    assert "robustness.png" not in card
    directory = tiny_artifact(tmp_path, evaluated=False, analysed=True)
    (tmp_path / "robustness.json").unlink()
    card = render(read_artifact(directory), "me/tiny")
    assert "Not measured: there is no `results.json`." in card
    assert "| vgg11 |" in card
    assert "robustness.png" not in card, "a picture without its figures is not of this artifact for certain"


def test_a_coreset_is_chosen_and_not_distilled(tmp_path, render):
    artifact = read_artifact(tiny_artifact(tmp_path, rule="k_center", evaluated=False))
    card = render(artifact, "me/tiny")
    assert "8 real images" in card
    assert r'chosen by the rule "k\_center"' in " ".join(card.split())
    assert "nothing in" in card
    assert r"| rule | k\_center |" in card
    assert "[coreset.json](coreset.json)" in card
    assert "![The chosen images](gallery.png)" in card
    assert "Samples are images of these data" in card
    assert "distilled" not in card.replace("distillation", "")
    assert "objective" not in card, "the recipe names one, which had no part in it"
    assert "dataset-distillation" not in ModelCard(card).data.tags
    assert "coreset" in ModelCard(card).data.tags
    assert ModelCard(card).data.license == "mit", "a coreset's recipe names its data too"


def test_soft_labels_formations_and_step_sizes(tmp_path):
    settings = {"label_kind": "soft", "num_hallucinators": 0, "formation_factor": 2, "num_step_sizes": 4}
    artifact = read_artifact(tiny_artifact(tmp_path, **settings))
    card = render_model_card(artifact, "me/tiny")
    assert "8 bases (2 per class), each stored as 8x8 pixels, 2x2 tiles, 32 training samples in all." in card
    assert "cut into 4 tiles (2 x 2)" in card
    assert "Labels are soft" in card
    assert "improvement over random images with hard labels at equal storage" in card
    assert "Train students by the 4 step sizes" in card
    assert "at learning rate" not in card
    assert "| step sizes | 4 |" in card
    tables = render_dataset_card(artifact, "me/tiny")
    assert "| `basis`, `formation` | both |" in tables
    assert "the probability of each class" in tables
    plain = render_model_card(read_artifact(tiny_artifact(tmp_path / "plain", num_hallucinators=0)), "me/tiny")
    assert "tiles" not in plain
    assert "soft" not in plain
    assert "step sizes" not in plain
    assert "hallucinator drawn" not in plain


@pytest.mark.parametrize(
    "used, sentence",
    [
        (None, "trained for 40 epochs at learning rate 0.01, which is `model.student_learning_rate`."),
        (0.003, "trained for 40 epochs at learning rate 0.003; `model.student_learning_rate` is 0.01."),
    ],
)
def test_students_are_to_be_trained_as_they_were_measured(tmp_path, used, sentence):
    directory = tiny_artifact(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    results["settings"]["evaluation_learning_rate"] = used
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert sentence in render_model_card(read_artifact(directory), "me/tiny")


def test_without_a_measurement_the_stored_learning_rate_is_told(tmp_path):
    card = render_model_card(read_artifact(tiny_artifact(tmp_path, evaluated=False)), "me/tiny")
    assert "The learning rate for students, 0.01, is `model.student_learning_rate`." in card


def test_hard_label_recovery_is_of_hard_labels_alone(tmp_path):
    card = render_model_card(read_artifact(tiny_artifact(tmp_path, label_kind="soft")), "me/tiny")
    assert "improvement over random" in card
    assert "recovery" not in card
    assert "| labels | 32 |" in card
    # Results that do not say are of an older run, and where its labels come from is not on record either.
    assert "| HaBa, 3 hallucinators | soft |" in card and "| random real, equal storage | hard |" in card
    assert "of an origin that is not on record" in card and "if any, have hard ones" in card


def test_storage(artifact, render):
    card = render(artifact, "me/tiny")
    # 8 bases of 64 values; 3 hallucinators of 2 x 64 scales and shifts and 2 x 10 of convolutions; a learning rate.
    floats = 8 * 64 + 3 * (2 * 64 + 2 * 10) + 1
    assert "A basis is stored as 8x8 pixels." in card
    assert "| bases | 512 | 2,048 |" in card
    assert "| hallucinators | 444 | 1,776 |" in card
    assert f"| all | {floats} | {4 * floats:,} |" in card
    assert f"These are as many floats as {floats / (4 * 64):.2f} plain images per class" in card
    assert f"{100 * floats / (54_000 * 64):.3f} % in pixel values" in card


def test_provenance_licence_and_citation(artifact, render):
    card = render(artifact, "me/tiny")
    assert "54,000 training images" in card
    assert "| steps | 12 |" in card
    assert "| time | 34 s |" in card
    assert "| hardware | a CPU |" in card
    assert "| objective | dm |" in card
    assert "Fashion-MNIST is licensed under MIT." in card
    assert "liu2022dataset" in card
    assert "xiao2017fashion" in card
    assert "/home/someone" not in card
    assert str(artifact.directory.parent) not in card
    assert "![Bases and samples](gallery.png)" in card
    assert "training_curves.png" not in card, "the artifact has none"


def test_metadata_of_a_model(artifact):
    data = ModelCard(render_model_card(artifact, "me/tiny")).data
    assert (data.library_name, data.license, data.datasets) == ("haba_hf", "mit", ["zalando-datasets/fashion_mnist"])
    assert {"dataset-distillation", "haba"} <= set(data.tags)
    assert data.model_name == "tiny"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.8125, "test")
    assert result.dataset_type == "zalando-datasets/fashion_mnist"
    (entry,) = yaml.safe_load(eval_results_yaml(artifact))
    assert entry["dataset"] == {"id": "zalando-datasets/fashion_mnist", "task_id": "default"}
    assert entry["value"] == 0.8125


def test_metadata_of_a_dataset(artifact):
    data = DatasetCard(render_dataset_card(artifact, "me/tiny")).data
    assert [config["config_name"] for config in data.configs] == ["exact", "images"]
    assert data.size_categories == ["n<1K"]
    assert data.license == "mit"


def test_only_a_recipe_makes_a_known_source():
    assert source_of({"dataset": "mnist"}, {}) is SOURCES["mnist"]
    assert source_of({"dataset": "uoft-cs/cifar10"}, {}) is SOURCES["cifar10"]
    subset = source_of({"dataset": "imagenette"}, {})
    assert subset.title == "ImageNette, ten classes of ImageNet-1k"
    assert subset.hub_id is None, "its accuracy is no result on all of ImageNet"
    own = source_of({"dataset": "/data/mnist"}, {"dataset": "mnist"})
    assert (own.title, own.hub_id, own.license_id) == ("mnist", None, "unknown")
    assert source_of({}, {}) is None
    assert source_of({"dataset": ["mnist"]}, {}) is None


def test_text_of_a_file_stays_text(artifact, render):
    card = render(artifact, "me/tiny")
    assert r"a\|b \<i\>\[x\](y)" in card
    assert r"{{ 7 \* 7 }}" in card, "not 49"
    assert CLASS_NAMES[2] not in card
    assert escape_markdown("a\n\n# b") == r"a \# b"


HOSTILE = "a\x1b[2J\x1b]0;title\x07 ![x](https://e.vil/p.png) https://e.vil www.e.vil \u202egnp.exe\u2028 me@e.vil"


def test_text_of_records_acts_neither_on_a_terminal_nor_on_a_page(tmp_path, render):
    folder = tiny_artifact(tmp_path, analysed=True)
    path = folder / "distillation.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"device": HOSTILE, "dataset": HOSTILE, HOSTILE: HOSTILE})
    )
    (folder / "recipe.yaml").unlink()  # it names the data: without it the record's own title is shown
    artifact = read_artifact(folder)
    told, on_page = artifact_summary(artifact), artifact_summary(artifact, escape_markdown)
    body = render(artifact, "me/tiny").split("\n---\n", 1)[1]
    for text in (*told, *on_page, render(artifact, "me/tiny")):
        assert not set("\x1b\x07\u202e\u2028") & set(text)
    for text in (*on_page, body):
        assert not re.search(r"https?://e\.vil|(?<!\\)\[x\]|www\.e|me@e", text)
    assert r"https\://e.vil" in body and r"www\.e.vil" in body


def test_systems_of_the_results_stay_text(tmp_path):
    directory = tiny_artifact(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    results["rows"][1]["system"] = "<script>alert(1)</script>\n---\nlicense: mit"
    results["rows"][0]["system"] = "a|b"
    (tmp_path / "results.json").write_text(json.dumps(results))
    card = render_model_card(read_artifact(directory), "me/tiny")
    assert "<script>" not in card
    assert r"\<script\>alert(1)\</script\> --- license: mit" in card
    assert r"| a\|b |" in card, "escaped once"


def test_a_bare_model_says_what_is_not_on_record(tmp_path, render):
    directory = tiny_artifact(tmp_path, evaluated=False)
    for name in ("recipe.yaml", "distillation.json", "gallery.png"):
        (directory / name).unlink()
    card = render(read_artifact(directory), "me/tiny")
    assert "Not on record: there is no `distillation.json`." in card
    assert "How many images they come from is not on record." in card
    assert "check their licence" in card
    assert "gallery.png" not in card
    assert ModelCard(card).data.license == "unknown"


def code_of(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


@pytest.mark.slow
def test_code_of_both_cards_runs_when_pasted(tmp_path, monkeypatch):
    directory = tiny_artifact(tmp_path / "run")
    with serving(tmp_path, monkeypatch) as hub:
        push_artifact(directory, "me/tiny")
        push_artifact(directory, "me/tiny", as_dataset=True)
        with_package, without = code_of(hub.files("me/tiny")["README.md"].decode())
        (tables,) = code_of(hub.files("me/tiny", "dataset")["README.md"].decode())
        assert len(with_package.strip().splitlines()) == 5
        # Without the package comes first: what is imported stays. All in one process, for torch is slow to import.
        blocked = f"import sys\nsys.modules['haba_hf'] = None\n{without}\ndel sys.modules['haba_hf']\n"
        command = [sys.executable, "-c", blocked + with_package + tables]
        environment = environment_of(hub, tmp_path / "home")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    samples, labels = "torch.Size([24, 1, 8, 8])", "torch.Size([24])"
    assert done.stdout.splitlines() == [samples, f"{samples} {labels}", "torch.Size([1, 8, 8]) (8, 8)"]
