"""Samples of speech as WAV files to listen to.

Shape legend: B samples of a batch, C/H/W of a sample; S sound samples.
"""

from pathlib import Path
from typing import cast

import soundfile
import torch
from torch import Tensor

from ..artifact.loading import HabaProcessor
from ..artifact.modeling_haba import HabaModel, HabaOutput
from ..artifact.processing_audio_haba import GRIFFIN_LIM_STEPS, HabaAudioProcessor
from ..utils.files import atomic_directory, check_empty
from ..utils.text import file_word

BATCH_SIZE = 64


def save_sounds(
    model: HabaModel, processor: HabaProcessor, directory: str | Path, steps: int = GRIFFIN_LIM_STEPS
) -> list[Path]:
    """
    Writes every sample of an artifact of speech as a WAV file of 16 bits, by the Griffin-Lim algorithm:
    `<class>_<word>/basis<i>_hallucinator<j>.wav`, classes counted from 0 and the others from 1; with multi-formation
    `_formation<m>` follows.

    Sounds that are too loud for a file are scaled down to its limits, each by itself.

    Args:
        model ([`HabaModel`]): the artifact.
        processor ([`HabaAudioProcessor`]): the artifact's.
        directory (`str`): a new or empty folder.
        steps (`int`, *optional*, defaults to 64): of the algorithm.

    Returns:
        The files, in the order of the samples.

    Raises:
        `ValueError`: if the artifact is of images, or the folder holds anything.
        `OSError`: if it cannot be written.
    """
    directory = Path(directory)
    if not isinstance(processor, HabaAudioProcessor):
        raise ValueError("The artifact is of images, which make no sound: haba gallery draws its samples.")
    check_empty(directory, "sounds")
    output = model.materialize()
    names = _names(model, output)
    with atomic_directory(directory) as aside:
        batches = output["samples"].float().split(BATCH_SIZE)
        sounds = (sound_S for samples_BCHW in batches for sound_S in processor.to_sound(samples_BCHW, steps))
        for sound_S, name in zip(sounds, names, strict=True):
            (aside / name).parent.mkdir(exist_ok=True)
            soundfile.write(aside / name, _within_limits(sound_S).numpy(), processor.sampling_rate, subtype="PCM_16")
    return [directory / name for name in names]


def class_sounds(
    model: HabaModel, processor: HabaAudioProcessor, label: int | None = None, most: int = 12
) -> list[tuple[str, Tensor]]:
    """
    Some samples as sound, with what they are called: of one class those of its first bases by every hallucinator, or
    of each class the first.

    Args:
        model ([`HabaModel`]): the artifact.
        processor ([`HabaAudioProcessor`]): the artifact's.
        label (`int`, *optional*): the class, by default all.
        most (`int`, *optional*, defaults to 12): samples.

    Returns:
        `list[tuple[str, torch.Tensor]]`: names and float `[S]`, within -1 and 1.
    """
    config, ids_LX = model.config, model.sample_ids_by_class()
    per_basis = max(config.num_hallucinators, 1) * config.num_formations
    with torch.no_grad():
        shown = ids_LX[:most, 0] if label is None else ids_LX[label, : max(most // per_basis, 1) * per_basis]
        output = model.restore(shown)
    named = []
    for i, sound_S in enumerate(processor.to_sound(output.samples.float())):
        basis = int(output.basis_ids[i])
        word = config.id2label[int(model.class_ids[basis])]
        name = word if label is None else f"basis {basis % config.bases_per_class + 1}"
        if output.hallucinator_ids is not None:
            name += f", H{int(output.hallucinator_ids[i]) + 1}"
        named.append((name, _within_limits(sound_S)))
    return named


def _within_limits(sound_S: Tensor) -> Tensor:
    """A sound that is too loud for a file or a player, scaled down to their limits."""
    return sound_S / sound_S.abs().max().clamp_min(1)


def _names(model: HabaModel, output: HabaOutput) -> list[Path]:
    """A file for each sample, in a folder for each class."""
    basis_ids = cast(Tensor, output.basis_ids)
    labels, bases_per_class = model.class_ids[basis_ids], model.config.bases_per_class
    numbers = {"basis": basis_ids % bases_per_class}
    if output.hallucinator_ids is not None:
        numbers["hallucinator"] = output.hallucinator_ids
    if output.formation_ids is not None:
        numbers["formation"] = output.formation_ids
    names = []
    for i, label in enumerate(labels.tolist()):
        word = file_word(model.config.id2label[label])
        parts = [f"{part}{int(ids[i]) + 1}" for part, ids in numbers.items()]
        names.append(Path(f"{label}_{word}") / f"{'_'.join(parts)}.wav")
    return names
