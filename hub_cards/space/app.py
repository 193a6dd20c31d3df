"""
The Space: pick an artifact, see what its hallucinators make of its bases beside real images, choose one or mix them.

    python hub_cards/space/app.py                             # the artifacts of hub_cards/published
    python hub_cards/space/app.py runs/demo/haba/artifact     # your own
    python hub_cards/space/app.py --data_root path/to/data    # real images from folders, not from the Hub

Needs `pip install "haba-hf[space]"`. The address is printed; GRADIO_SERVER_PORT and GRADIO_SERVER_NAME set it.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import gradio as gr

from haba_hf import HabaAudioProcessor
from haba_hf.data import DataArguments, ImageData, load_image_data
from haba_hf.data.arguments import NAMED_DATASETS
from haba_hf.hub import Artifact, artifact_summary, fetch_artifact, mixture_picture, read_artifact
from haba_hf.hub.galleries import fits
from haba_hf.hub.listen import class_sounds
from haba_hf.hub.summary import headline
from haba_hf.recipes import data_arguments_of
from haba_hf.utils.shipped import published_artifacts
from haba_hf.utils.text import escape_markdown

MOST_BYTES = 64 * 2**20  # of an artifact that a visitor names
ALL_CLASSES, ALL, MIXTURE = "all classes", "all", "mixture"
INTRODUCTION = """### haba_hf: a data set in some kilobytes

An artifact holds a few **bases** per class and, often, a few small networks, **hallucinators**, that turn every basis
into several training samples."""

# Of a phone: a table keeps its words whole and scrolls by itself.
STYLE = "#summary table { display: block; overflow-x: auto; } #summary :is(th, td) { white-space: nowrap; }"


class RealImages:
    """
    The real images of artifacts, loaded once for all artifacts of a data set.

    Args:
        data_root (`Path`, *optional*): a folder of data sets by their names; by default they come from the Hub.
    """

    def __init__(self, data_root: Path | None):
        self.data_root = data_root
        self.load = lru_cache(maxsize=2)(self._load)

    def of(self, artifact: Artifact, is_ours: bool) -> ImageData:
        """
        Raises:
            `ValueError`, `OSError`: if there are none, and why.
        """
        name, folder = artifact.recipe.get("dataset"), Path(str(artifact.recipe.get("data_dir")))
        if self.data_root is not None:
            folder = self.data_root / str(name)
        data_dir = str(folder) if is_ours and folder.is_dir() else None
        if data_dir is None and name not in NAMED_DATASETS:  # others load nothing that we do not know
            raise ValueError("the record of this artifact names no data set that can be loaded here")
        arguments = data_arguments_of(artifact.recipe, data_dir=data_dir, zca=False)
        data = self.load(json.dumps(dataclasses.asdict(arguments)))
        if not fits(data, artifact):
            raise ValueError("those of its data set have other classes or another size")
        return data

    @staticmethod
    def _load(settings: str) -> ImageData:
        return load_image_data(DataArguments(**json.loads(settings)), needs_test=False)


def build(folders: dict[str, Path], real_images: RealImages) -> gr.Blocks:
    """
    The page.

    Args:
        folders (`dict[str, Path]`): artifacts to choose from; it opens on the first. Any other name is one on the
            Hub: what a visitor types is never a path on this machine.
        real_images ([`RealImages`]): shown beside the samples.
    """

    @lru_cache(maxsize=4)
    def open_artifact(name: str) -> Artifact:
        if name in folders:
            return read_artifact(folders[name])
        # As a stranger: what a visitor names is not read by the rights of the Space's owner.
        return read_artifact(fetch_artifact(name, token=False, most_bytes=MOST_BYTES))

    def opened(name: str | None) -> Artifact:
        try:
            return open_artifact(str(name or "").strip())
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def draw(name: str, class_name: str, weights: Sequence[float] | None, real: ImageData | None = None):
        artifact = opened(name)
        try:
            return mixture_picture(artifact, weights, _label(artifact, class_name), real)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def draw_with_real(name: str, class_name: str, weights: Sequence[float] | None):
        """The picture, with real images where there are any, and what is to be said of them."""
        try:
            real = real_images.of(opened(name), is_ours=name in folders)
            return draw(name, class_name, weights, real), ""
        except (ValueError, OSError) as error:
            return draw(name, class_name, weights), f"No real images beside them: {escape_markdown(str(error))}"

    def show_artifact(name: str):
        artifact = opened(name)
        choices = _choices(artifact)
        return (
            gr.Dropdown([ALL_CLASSES, *_class_names(artifact)], value=ALL_CLASSES),
            gr.Radio(choices, value=ALL if choices else None, visible=bool(choices)),
            None,
            draw(name, ALL_CLASSES, None),
            headline(artifact),
            "\n\n".join(artifact_summary(artifact, escape_markdown)),
        )

    def choose(name: str, class_name: str, choice: str):
        weights = _weights(opened(name), choice)
        return weights, *draw_with_real(name, class_name, weights)

    def mix(name: str, class_name: str, *weights: float):
        return weights, *draw_with_real(name, class_name, weights)

    with gr.Blocks(title="haba_hf", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        weights = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                artifact_box = gr.Dropdown(
                    list(folders),
                    value=next(iter(folders), None),
                    allow_custom_value=True,
                    label="Artifact",
                    info="One of these, or owner/name on the Hub",
                )
                accuracy = gr.Markdown(elem_id="accuracy")
                class_box = gr.Dropdown([ALL_CLASSES], value=ALL_CLASSES, label="Class")
                choice_box = gr.Radio([], label="Hallucinators", elem_id="hallucinator", visible=False)

                @gr.render(inputs=[artifact_box, choice_box])
                def show_sliders(name: str, choice: str | None):
                    if choice != MIXTURE:
                        return
                    sliders = [
                        gr.Slider(0, 1, value=1, label=f"Weight of {j}", elem_id=f"weight-{j}", interactive=True)
                        for j in _hallucinators(opened(name))
                    ]
                    for slider in sliders:
                        slider.input(
                            mix,
                            [artifact_box, class_box, *sliders],
                            [weights, picture, note],
                            trigger_mode="always_last",
                        )

            with gr.Column(scale=2, min_width=300):
                picture = gr.Image(show_label=False, interactive=False, format="png", elem_id="samples")
                note = gr.Markdown(elem_id="note")

        @gr.render(inputs=[artifact_box, class_box])
        def show_sounds(name: str, class_name: str):
            artifact = opened(name)
            if not isinstance(artifact.processor, HabaAudioProcessor):
                return
            rate = artifact.processor.sampling_rate
            with gr.Row(elem_id="sounds"):
                for label, sound in class_sounds(artifact.model, artifact.processor, _label(artifact, class_name)):
                    gr.Audio((rate, sound.numpy()), label=label, interactive=False, min_width=160)

        summary = gr.Markdown(elem_id="summary")

        shown = [class_box, choice_box, weights, picture, accuracy, summary]
        drawn = [picture, note]
        what = [artifact_box, class_box, weights]
        # The artifact at once; real images as soon as they are loaded.
        artifact_box.input(show_artifact, artifact_box, shown).success(draw_with_real, what, drawn)
        class_box.input(draw_with_real, what, drawn)
        choice_box.input(choose, [artifact_box, class_box, choice_box], [weights, *drawn])
        if folders:
            page.load(show_artifact, artifact_box, shown).success(draw_with_real, what, drawn)
    return page


def _class_names(artifact: Artifact) -> list[str]:
    return [str(artifact.model.config.id2label[label]) for label in range(artifact.model.config.num_labels)]


def _label(artifact: Artifact, class_name: str) -> int | None:
    names = _class_names(artifact)
    return names.index(class_name) if class_name in names else None


def _hallucinators(artifact: Artifact) -> list[str]:
    return [f"H{j + 1}" for j in range(artifact.model.config.num_hallucinators)]


def _choices(artifact: Artifact) -> list[str]:
    """All side by side, one, or a mixture; nothing for plain pixels."""
    names = _hallucinators(artifact)
    return [ALL, *names, MIXTURE] if names else []


def _weights(artifact: Artifact, choice: str | None) -> list[float] | None:
    """All on the hallucinator that was chosen; of a new mixture, the same on each; none for all side by side."""
    if choice not in (*_hallucinators(artifact), MIXTURE):
        return None
    return [float(choice in (name, MIXTURE)) for name in _hallucinators(artifact)]


def best_first(folders: dict[str, Path]) -> dict[str, Path]:
    """
    The artifacts in the order to show them: with hallucinators first, then by accuracy.

    Raises:
        `ValueError`, `OSError`: if one is damaged: now, not on the page.
    """

    def rank(name: str) -> tuple[bool, float]:
        artifact = read_artifact(folders[name])
        accuracy = artifact.rows[0].accuracy.mean if artifact.rows else 0.0
        return not artifact.model.config.num_hallucinators, -accuracy

    return {name: folders[name] for name in sorted(folders, key=rank)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="*", type=Path, help="folders of artifacts (those of hub_cards/published)")
    parser.add_argument("--data_root", type=Path, help="folder of data sets by name (by default they are the Hub's)")
    arguments = parser.parse_args(argv)
    folders = {str(path): path for path in arguments.artifacts} or published_artifacts()
    build(best_first(folders), RealImages(arguments.data_root)).launch(css=STYLE)


if __name__ == "__main__":
    main()
