"""`push_to_hub` of a model, and its samples as a dataset repository."""

import pytest
import torch
from datasets import load_dataset
from huggingface_hub import ModelCard

from haba_hf import HabaConfig, HabaModel
from haba_hf.hub import push_artifact, read_artifact
from tiny_artifact import CODE, FILES, tiny_artifact

MODEL_CODE = CODE - {"processing_haba.py", "whitening_haba.py"}


def test_push_to_hub_of_a_model(hub, artifact, caplog):
    """The model alone, with a short card, in one commit, with the options of transformers."""
    model = HabaModel.from_pretrained(artifact)
    model.add_model_tags(["ours"])
    options = {"commit_message": "Hello", "commit_description": "World", "private": True}
    commit = model.push_to_hub("me/plain", tags=["mine", "haba"], **options)
    assert commit.startswith(f"{hub.url}/me/plain")
    assert "push_artifact (or haba push) brings the processor, the records" in caplog.text
    files = hub.files("me/plain")
    assert files.keys() == MODEL_CODE | {"config.json", "model.safetensors", "README.md"}
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "haba_hf"
    assert card.data.tags == ["dataset-distillation", "haba", "ours", "mine"]
    config = model.config
    assert f"{config.num_bases} bases stored as pixels and {config.num_hallucinators} hallucinators" in card.text
    assert 'AutoModel.from_pretrained("me/plain", trust_remote_code=True)' in card.text
    assert "haba push" in card.text
    repo = hub.repos[("model", "me/plain")]
    assert repo.private
    assert [(title, repo.descriptions[sha]) for sha, title, _ in repo.commits[1:]] == [("Hello", "World")]
    loaded = HabaModel.from_pretrained("me/plain")
    assert torch.equal(loaded.materialize().samples, model.materialize().samples)


def test_the_card_of_a_push_to_hub_takes_the_place_of_one_of_other_weights(hub, artifact):
    push_artifact(artifact, "me/tiny")
    before = hub.files("me/tiny")
    model = HabaModel.from_pretrained(artifact)
    model.bases.data += 1
    model.push_to_hub("me/tiny")
    files = hub.files("me/tiny")
    assert files.keys() == before.keys()
    assert b"model-index" in before["README.md"] and b"model-index" not in files["README.md"], "of other weights"
    assert torch.equal(HabaModel.from_pretrained("me/tiny").bases, model.bases)
    push_artifact(artifact, "me/tiny")
    assert hub.files("me/tiny") == before


def test_push_to_hub_of_plain_pixels_does_not_call_them_distilled(hub, artifact):
    HabaModel(HabaConfig(num_labels=2, num_hallucinators=0, sample_height=8, sample_width=8)).push_to_hub("me/pixels")
    card = ModelCard(hub.files("me/pixels")["README.md"].decode())
    assert card.data.tags == ["haba"]
    assert "2 bases stored as pixels, in all 2 samples" in card.text


def test_push_to_hub_to_a_branch_and_as_a_pull_request(hub, artifact):
    model = HabaModel.from_pretrained(artifact)
    model.push_to_hub("me/tiny", revision="v2", tags="mine")
    assert hub.files("me/tiny") == {}, "the main branch is as it was"
    assert "mine" in ModelCard(hub.files("me/tiny", revision="v2")["README.md"].decode()).data.tags
    commit = model.push_to_hub("me/tiny", create_pr=True)
    assert commit.pr_url == f"{hub.url}/me/tiny/discussions/1"
    assert hub.files("me/tiny") == {}
    assert "model.safetensors" in hub.files("me/tiny", revision="refs/pr/1")


@pytest.mark.parametrize("label_kind", ["hard", "soft"])
def test_samples_as_a_dataset_repository(hub, tmp_path, label_kind):
    artifact = tiny_artifact(tmp_path / "run", label_kind=label_kind)
    url = push_artifact(artifact, "me/tiny", as_dataset=True)
    assert url == f"{hub.url}/datasets/me/tiny"
    tables = {f"{config}/train-00000-of-00001.parquet" for config in ("exact", "images")}
    records = FILES - {"config.json", "model.safetensors", ".eval_results/haba.yaml"}
    assert hub.files("me/tiny", "dataset").keys() == records | tables
    loaded = read_artifact(artifact)
    expected = loaded.model.materialize()

    exact = load_dataset("me/tiny", "exact", split="train").with_format("torch")
    assert torch.equal(exact[:]["pixel_values"], expected.samples)
    assert torch.equal(exact[:]["labels"], expected.labels)
    assert exact[:]["hallucinator"].tolist() == expected.hallucinator_ids.tolist()
    assert load_dataset("me/tiny", split="train").column_names == exact.column_names, "exact is the default"
    images = load_dataset("me/tiny", "images", split="train", streaming=True)
    pictures = [row["image"] for row in images]
    assert [picture.tobytes() for picture in pictures] == [
        picture.tobytes() for picture in loaded.processor.to_pil(expected.samples)
    ]
    streamed = next(iter(load_dataset("me/tiny", "exact", split="train", streaming=True)))
    assert torch.equal(torch.tensor(streamed["pixel_values"]), expected.samples[0])
