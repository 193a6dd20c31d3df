"""Speech from clips to a card: distilled, evaluated, drawn, heard and published by the code that serves images."""

import json

import numpy as np
import pytest
import soundfile
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from fake_hub import serving
from haba_hf import HabaAudioProcessor
from haba_hf.cli import main
from haba_hf.data import load_image_data
from haba_hf.hub import (
    pull_artifact,
    push_artifact,
    read_artifact,
    render_dataset_card,
    render_model_card,
    save_gallery,
    save_sounds,
)
from haba_hf.hub.cards import eval_results_yaml
from haba_hf.hub.listen import class_sounds
from haba_hf.hub.publish import code_files
from haba_hf.recipes import parse_recipe
from haba_hf.runs import (
    distill,
    embed,
    evaluate,
    evaluate_architectures,
    evaluate_robustness,
    load_artifact,
    select_coreset,
    train_one_student,
)
from speech_clips import RATE, WORDS, pitch_of, tone, write_clips
from tiny import tiny_accelerator, tiny_data, tiny_model
from tiny_artifact import tiny_artifact

SIDE = 16


@pytest.fixture(autouse=True)
def offline(own_datasets_cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def recipe_of(tmp_path):
    """Makes clips of speech and gives recipes that fit them, with some fields changed."""
    write_clips(tmp_path / "clips", range(8))
    fields = {
        "dataset": tmp_path / "clips",
        "validation_fraction": 0.25,
        "resize": SIDE,
        "bases_per_class": 1,
        "num_hallucinators": 2,
        "network_depth": 2,
        "network_width": 8,
        "steps": 3,
        "real_batch_size": 4,
        "dsa": "crop_cutout_scale",
        "evaluation_dsa": "none",
        "evaluation_seeds": 2,
        "student_epochs": 30,
        "real_student_epochs": 20,
        "report_to": "none",
        "output_dir": tmp_path / "run",
    }

    def recipe(**changes):
        words = [
            (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
            for name, value in (fields | changes).items()
        ]
        return parse_recipe([word for pair in words for word in pair])

    return recipe


OBJECTIVES = {
    "dm": {"network_bank": 2, "dsa": "none"},
    "dsa": {"samples_per_class": 2},
    "idc": {
        "formation_factor": 2,
        "formation_axes": "time",
        "basis_init": "mix",
        "dsa": "none",
        "idc_dsa": "none",
        "idc_cutmix": 0.0,
        "idc_distance": "l1",
        "idc_real_samples": 8,
        "clamp_bases": "true",
    },
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_distill_and_evaluate_a_folder_of_clips(recipe_of, tmp_path, objective):
    recipe, accelerator = recipe_of(objective=objective, **OBJECTIVES[objective]), tiny_accelerator()
    artifact = distill(recipe, accelerator)
    model, processor, _ = load_artifact(str(artifact))
    assert type(processor) is HabaAudioProcessor
    assert model.config.id2label == dict(enumerate(WORDS))
    assert model.config.sample_shape == (1, SIDE, SIDE)
    samples = model.materialize().samples
    assert len(samples) == 3 * 2 * (2 if objective == "idc" else 1)
    assert samples.isfinite().all()

    rows = evaluate(recipe, accelerator)
    tiles = ["random real, same storage"] if objective == "idc" else []  # of bytes a real value takes as many
    assert [row.system for row in rows] == [
        "HaBa, 2 hallucinators",
        "random real, equal storage",
        *tiles,
        "full data",
    ]
    assert rows[-1].accuracy.mean == 1.0, "tones are told apart"
    values = len(load_image_data(recipe.data).train) * SIDE * SIDE
    assert (rows[-1].storage.floats, rows[-1].storage.bytes) == (values, 4 * values)
    assert rows[0].storage.bytes_ratio == pytest.approx(rows[0].storage.ratio)
    with Image.open(artifact / "gallery.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100, (
            "spectrograms have colors"
        )
    (scored,) = ModelCard(render_model_card(read_artifact(artifact), "me/words")).data.eval_results
    assert (scored.task_type, scored.metric_value) == ("audio-classification", round(rows[0].accuracy.mean, 4))


def test_idc_keeps_bases_in_the_range_of_the_training_spectrograms(recipe_of):
    """A new inner network every step: clamped before each, so that only the last step can leave the range. Noise, as
    bases begin, is beyond silence in many places."""
    recipe = recipe_of(
        objective="idc", **OBJECTIVES["idc"] | {"outer_steps": 1, "basis_learning_rate": 1e-6, "basis_init": "noise"}
    )
    artifact = distill(recipe, tiny_accelerator())
    model, processor, _ = load_artifact(str(artifact))
    least, greatest = processor.normalize(load_image_data(recipe.data).extremes()).aminmax()
    assert least - 1e-4 <= model.bases.min() and model.bases.max() <= greatest + 1e-4


def test_coreset_student_embedding_and_architectures(recipe_of, tmp_path):
    recipe = recipe_of(
        num_hallucinators=0,
        coreset="herding",
        coreset_epochs=5,
        coreset_dsa="none",
        coreset_dir=tmp_path / "coreset",
        architectures=["convnet", "lenet"],
        embedded_classes=[0, 2],
        perplexity=3.0,
    )
    accelerator = tiny_accelerator()
    artifact = select_coreset(recipe, accelerator)
    data, (model, processor, _) = load_image_data(recipe.data), load_artifact(str(artifact))
    rows = json.loads((artifact / "coreset.json").read_text())["training_rows"]
    chosen = [row for word in WORDS for row in rows[word]]
    assert (processor.normalize(data.train.images[chosen]) == model.bases).all()
    assert 0 <= train_one_student(recipe, accelerator) <= 1
    assert (tmp_path / "run" / "student" / "preprocessor_config.json").is_file()
    assert [row.architecture for row in evaluate_architectures(recipe, accelerator)] == ["convnet", "lenet"]
    assert embed(recipe, accelerator).is_file()
    with pytest.raises(ValueError, match="corruptions are made for uint8 color images"):
        evaluate_robustness(recipe, accelerator)


def test_another_front_end_is_no_test_data(recipe_of, tmp_path):
    artifact = distill(recipe_of(objective="dm"), tiny_accelerator())
    with pytest.raises(ValueError, match="The artifact's spectrograms were made by n_fft 255, mel_bins None"):
        evaluate(recipe_of(front_end="mel", artifact=artifact), tiny_accelerator())


@pytest.fixture
def speech_artifact(tmp_path):
    """An artifact of two tones a class, as plain samples, with results on record."""

    def make(**settings):
        directory = tiny_artifact(tmp_path / "run")
        model = tiny_model(tiny_data(channels=1, side=64), **{"num_hallucinators": 0} | settings)
        processor = HabaAudioProcessor(spectrogram_mean=-4.0, spectrogram_std=2.0)
        sounds = [tone(frequency) for frequency in np.linspace(500, 4000, model.config.num_bases)]
        model.bases.data.copy_(processor(sounds, sampling_rate=RATE)["pixel_values"])
        model.config.id2label = {0: "down", 1: "a/../b", 2: "stop", 3: "up"}
        (tmp_path / "run" / "results.json").unlink()
        model.save_pretrained(directory)
        processor.save_pretrained(directory)
        recipe = yaml.safe_load((directory / "recipe.yaml").read_text())
        (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"dataset": "mini_speech_commands"}))
        return directory

    return make


def test_samples_are_heard(speech_artifact, tmp_path, capsys):
    main(["listen", str(speech_artifact()), str(tmp_path / "sounds"), "--json"])
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "sounds"), "num_samples": 8}
    found = sorted(path.relative_to(tmp_path / "sounds").as_posix() for path in tmp_path.glob("sounds/*/*"))
    folders = ["0_down", "1_a____b", "2_stop", "3_up"]
    assert found == [f"{folder}/basis{basis}.wav" for folder in folders for basis in (1, 2)]
    for name, frequency in zip(found, np.linspace(500, 4000, 8), strict=True):
        info = soundfile.info(tmp_path / "sounds" / name)
        assert (info.samplerate, info.frames, info.channels, info.subtype) == (RATE, RATE, 1, "PCM_16")
        sound, _ = soundfile.read(tmp_path / "sounds" / name)
        assert pitch_of(sound, RATE) == pytest.approx(frequency, abs=RATE / 255), name
        assert 0.1 < np.abs(sound).max() <= 1


def test_every_sample_has_a_file_and_images_make_no_sound(speech_artifact, tmp_path):
    artifact = read_artifact(speech_artifact(num_hallucinators=2, formation_factor=2, formation_axes="time"))
    files = save_sounds(artifact.model, artifact.processor, tmp_path / "sounds", steps=1)
    assert len(set(files)) == len(files) == artifact.model.config.num_samples == 32
    assert all(path.is_file() for path in files)
    assert files[-1] == tmp_path / "sounds" / "3_up" / "basis2_hallucinator2_formation2.wav"
    with pytest.raises(ValueError, match="sounds is not empty: name a new folder"):
        save_sounds(artifact.model, artifact.processor, tmp_path / "sounds")
    with pytest.raises(ValueError, match="of images, which make no sound"):
        save_sounds(artifact.model, tiny_data(channels=1).processor, tmp_path / "other")


@pytest.mark.parametrize("num_hallucinators", [0, 2])
@pytest.mark.parametrize("storage", ["pixels", "frequencies"])
def test_the_gallery_of_speech(speech_artifact, tmp_path, storage, num_hallucinators):
    artifact = read_artifact(speech_artifact())
    stored = {"basis_frequencies": 12} if storage == "frequencies" else {"basis_height": 16, "basis_width": 16}
    sizes = {"basis_storage": storage, "num_hallucinators": num_hallucinators, **stored}
    model = tiny_model(tiny_data(channels=1, side=64), **sizes)
    save_gallery(model, artifact.processor, tmp_path / "gallery.png")
    width, height = Image.open(tmp_path / "gallery.png").size
    tiles, rows = (3, 8) if num_hallucinators else (3, 4)  # what is stored, then two samples
    assert width > 64 * tiles and 64 * rows < height < 64 * (rows + 2)


def test_the_sounds_of_a_page_are_named_and_are_their_samples(speech_artifact):
    artifact = read_artifact(speech_artifact())
    of_all = class_sounds(artifact.model, artifact.processor)
    assert [name for name, _ in of_all] == list(artifact.model.config.id2label.values())
    tones = np.linspace(500, 4000, 8)
    for (_, sound), frequency in zip(of_all, tones[::2], strict=True):
        assert pitch_of(sound.numpy(), RATE) == pytest.approx(frequency, abs=RATE / 255)
    of_third = class_sounds(artifact.model, artifact.processor, label=2)
    assert [name for name, _ in of_third] == ["basis 1", "basis 2"]
    for (_, sound), frequency in zip(of_third, tones[4:6], strict=True):
        assert pitch_of(sound.numpy(), RATE) == pytest.approx(frequency, abs=RATE / 255)
    hallucinated = read_artifact(speech_artifact(num_hallucinators=2))
    names = [name for name, _ in class_sounds(hallucinated.model, hallucinated.processor, label=0, most=2)]
    assert names == ["basis 1, H1", "basis 1, H2"]


def test_cards_and_code_of_speech(speech_artifact):
    artifact = read_artifact(speech_artifact())
    text = render_model_card(artifact, "me/words")
    metadata = ModelCard(text).data.to_dict()
    assert metadata["datasets"] == ["google/speech_commands"]
    assert metadata["license"] == "cc-by-4.0"
    assert "HabaAudioProcessor.from_pretrained" in text and "haba listen me/words" in text
    assert "HabaImageProcessor" not in text and "pixel / 255" not in text
    assert "std 2.0000" in text and "54,000 training clips" in text and "of spectrograms" in text
    dataset_card = ModelCard(render_dataset_card(artifact, "me/words")).data.to_dict()
    assert dataset_card["task_categories"] == ["audio-classification"]
    assert eval_results_yaml(artifact) is None, "eight words are not the Hub's whole data set"
    names = {path.name for path in code_files(HabaAudioProcessor)}
    assert "processing_audio_haba.py" in names and "processing_haba.py" not in names


def test_to_the_hub_and_back_with_its_processor(speech_artifact, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    directory = speech_artifact()
    with serving(tmp_path, monkeypatch) as hub:
        push_artifact(directory, "me/words")
        files = hub.files("me/words")
        names = {name for name in files if name.endswith(".py")}
        assert names == {path.name for path in code_files(HabaAudioProcessor)}
        settings = json.loads(files["preprocessor_config.json"])
        assert settings["auto_map"] == {"AutoFeatureExtractor": "processing_audio_haba.HabaAudioProcessor"}
        copy = pull_artifact("me/words", tmp_path / "copy")
        assert {path.name for path in copy.glob("*.py")} == names, "the code comes along"
        model, processor, _ = load_artifact("me/words")
        assert type(processor) is HabaAudioProcessor and processor.spectrogram_mean == -4.0
        assert (model.bases == read_artifact(copy).model.bases).all()
