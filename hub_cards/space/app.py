"""
The Space: pick an artifact, choose or mix its hallucinators, and watch the samples change.

    python hub_cards/space/app.py                                            # the artifacts of hub_cards/published
    python hub_cards/space/app.py runs/demo/haba/artifact --dataset digits   # your own, beside real images

Needs `pip install "haba-hf[space]"`. The address is printed; GRADIO_SERVER_PORT and GRADIO_SERVER_NAME set it.
"""

import argparse
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import gradio as gr

from haba_hf.data import DataArguments, ImageData, load_image_data
from haba_hf.hub import Artifact, artifact_summary, fetch_artifact, mixture_picture, read_artifact
from haba_hf.hub.galleries import fits
from haba_hf.utils.shipped import published_artifacts
from haba_hf.utils.text import escape_markdown

MOST_BYTES = 64 * 2**20  # of an artifact that a visitor names
ALL_CLASSES, MIXTURE = "all classes", "mixture"
INTRODUCTION = """# haba_hf: a data set in some kilobytes

An artifact holds a few **bases** per class and a few small networks, **hallucinators**, that turn every basis into
training samples. Choose one of them, or a mixture: the weighted mean of the samples they make."""


def build(folders: dict[str, Path], data: ImageData | None = None) -> gr.Blocks:
    """
    The page.

    Args:
        folders (`dict[str, Path]`): artifacts to choose from. Any other name is one on the Hub: what a visitor types
            is never a path on this machine.
        data ([`ImageData`], *optional*): real images, shown beside artifacts of the same classes and shape.
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

    def draw(name: str, class_name: str, weights: Sequence[float]):
        artifact = opened(name)
        names = _class_names(artifact)
        label = names.index(class_name) if class_name in names else None
        real = data if data is not None and fits(data, artifact) else None
        try:
            return mixture_picture(artifact, weights, label, real)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def show_artifact(name: str):
        artifact = opened(name)
        choices = _hallucinators(artifact)
        weights = _weights(artifact, choices[0] if choices else None)
        return (
            gr.Dropdown([ALL_CLASSES, *_class_names(artifact)], value=ALL_CLASSES),
            gr.Radio(choices, value=choices[0] if choices else None, visible=bool(choices)),
            weights,
            draw(name, ALL_CLASSES, weights),
            "\n\n".join(artifact_summary(artifact, escape_markdown)),
        )

    def choose(name: str, class_name: str, choice: str):
        weights = _weights(opened(name), choice)
        return weights, draw(name, class_name, weights)

    def mix(name: str, class_name: str, *weights: float):
        return weights, draw(name, class_name, weights)

    with gr.Blocks(title="haba_hf", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        weights = gr.State([])
        with gr.Row():
            with gr.Column(scale=1):
                artifact_box = gr.Dropdown(
                    list(folders),
                    value=next(iter(folders), None),
                    allow_custom_value=True,
                    label="Artifact",
                    info="One of these, or owner/name on the Hub",
                )
                class_box = gr.Dropdown([ALL_CLASSES], value=ALL_CLASSES, label="Class")
                choice_box = gr.Radio([], label="Hallucinator", elem_id="hallucinator", visible=False)

                @gr.render(inputs=[artifact_box, choice_box])
                def show_sliders(name: str, choice: str | None):
                    if choice != MIXTURE:
                        return
                    sliders = [
                        gr.Slider(0, 1, value=1, label=f"Weight of {j}", elem_id=f"weight-{j}", interactive=True)
                        for j in _hallucinators(opened(name))[:-1]
                    ]
                    for slider in sliders:
                        slider.input(
                            mix, [artifact_box, class_box, *sliders], [weights, picture], trigger_mode="always_last"
                        )

            with gr.Column(scale=2):
                picture = gr.Image(label="Bases and samples", interactive=False, format="png", elem_id="samples")
        summary = gr.Markdown(elem_id="summary")

        shown = [class_box, choice_box, weights, picture, summary]
        artifact_box.input(show_artifact, artifact_box, shown)
        class_box.input(draw, [artifact_box, class_box, weights], picture)
        choice_box.input(choose, [artifact_box, class_box, choice_box], [weights, picture])
        if folders:
            page.load(show_artifact, artifact_box, shown)
    return page


def _class_names(artifact: Artifact) -> list[str]:
    return [str(artifact.model.config.id2label[label]) for label in range(artifact.model.config.num_labels)]


def _hallucinators(artifact: Artifact) -> list[str]:
    """What there is to choose, the mixture last; nothing for plain pixels."""
    count = artifact.model.config.num_hallucinators
    return [*(f"H{j + 1}" for j in range(count)), MIXTURE] if count else []


def _weights(artifact: Artifact, choice: str | None) -> list[float]:
    """All on the hallucinator that was chosen; of a new mixture, the same on each."""
    return [float(choice in (name, MIXTURE)) for name in _hallucinators(artifact)[:-1]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="*", type=Path, help="folders of artifacts (those of hub_cards/published)")
    parser.add_argument("--dataset", help="real images to show beside the samples, as in a recipe")
    parser.add_argument("--data_dir", help="folder to load them from instead of the Hub")
    arguments = parser.parse_args(argv)
    folders = {str(path): path for path in arguments.artifacts} or published_artifacts()
    for folder in folders.values():
        read_artifact(folder)  # a mistake is an error now, not on the page
    data = None
    if arguments.dataset is not None:
        data = load_image_data(DataArguments(arguments.dataset, arguments.data_dir), needs_test=False)
    build(folders, data).launch()


if __name__ == "__main__":
    main()
