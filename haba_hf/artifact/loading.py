"""The processors of images and of speech as one: what every room above the artifact takes and loads."""

from pathlib import Path

from transformers.utils import FEATURE_EXTRACTOR_NAME

from .files_haba import read_settings
from .modeling_haba import HabaModel
from .processing_audio_haba import HabaAudioProcessor
from .processing_haba import HabaImageProcessor

HabaProcessor = HabaImageProcessor | HabaAudioProcessor


def load_model_and_processor(artifact: str | Path, local_files_only: bool = False) -> tuple[HabaModel, HabaProcessor]:
    """
    An artifact's model and processor, which are known to fit each other; no code of the artifact is run.

    Args:
        artifact (`str`): a folder or a Hub id.
        local_files_only (`bool`, *optional*, defaults to `False`): do not ask the Hub.

    Raises:
        `OSError`: if it does not exist or lacks a file.
        `ValueError`: if it is damaged, not a haba artifact, or its processor lacks the whitening of its samples.
    """
    model = HabaModel.from_pretrained(artifact, local_files_only=local_files_only)
    processor = load_processor(artifact, local_files_only)
    processor.check_fits(model.config)
    return model, processor


def load_processor(artifact: str | Path, local_files_only: bool = False) -> HabaProcessor:
    """
    The processor saved with an artifact; no code of the artifact is run.

    Args:
        artifact (`str`): a folder or a Hub id.
        local_files_only (`bool`, *optional*, defaults to `False`): do not ask the Hub.

    Raises:
        `OSError`: if there is no `preprocessor_config.json`.
        `ValueError`: if it cannot be read, or is of another processor.
    """
    settings = read_settings(artifact, FEATURE_EXTRACTOR_NAME, {"local_files_only": local_files_only})
    if settings.get("feature_extractor_type") == HabaAudioProcessor.__name__:
        return HabaAudioProcessor.from_pretrained(artifact, local_files_only=local_files_only)
    if settings.get("image_processor_type") == HabaImageProcessor.__name__:
        return HabaImageProcessor.from_pretrained(artifact, local_files_only=local_files_only)
    raise ValueError(
        f"The preprocessor_config.json of {artifact} is of no processor of haba_hf: use another artifact."
    )


def check_same_space(artifact: HabaProcessor, data: HabaProcessor) -> None:
    """
    Refuses real data that an artifact's processor cannot take to its model space.

    Raises:
        `ValueError`: if one is of images and one of speech, or their spectrograms are made by other settings.
    """
    if isinstance(artifact, HabaAudioProcessor) and isinstance(data, HabaAudioProcessor):
        differing = [name for name, value in artifact.front_end.items() if data.front_end[name] != value]
        if differing:
            theirs = ", ".join(f"{name} {artifact.front_end[name]}" for name in differing)
            raise ValueError(
                f"The artifact's spectrograms were made by {theirs}: load the data with the front end of its recipe."
            )
    elif type(artifact) is not type(data):
        raise ValueError("The artifact or the data is of images and the other of speech: choose data of its kind.")
