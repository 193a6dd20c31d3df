"""Dataset distillation by factorization (HaBa) for the Hugging Face ecosystem."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel

from .artifact.configuration_haba import HabaConfig
from .artifact.hallucinator_haba import Hallucinator
from .artifact.modeling_haba import HabaModel
from .artifact.output_haba import HabaOutput, StorageReport
from .artifact.processing_audio_haba import HabaAudioProcessor
from .artifact.processing_haba import HabaImageProcessor

if TYPE_CHECKING:
    from .evaluation import train_student
    from .networks import register_network
    from .runs.trainer import DistilledArtifact, HabaTrainer, HabaTrainingArguments, distill

__version__ = "0.1.0"

# What needs the whole package is imported when it is first asked for.
_LATER = {
    "DistilledArtifact": ".runs.trainer",
    "HabaTrainer": ".runs.trainer",
    "HabaTrainingArguments": ".runs.trainer",
    "distill": ".runs.trainer",
    "register_network": ".networks",
    "train_student": ".evaluation",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


# AutoModel.from_pretrained needs no remote code where haba_hf is imported ...
AutoConfig.register("haba", HabaConfig)
AutoModel.register(HabaConfig, HabaModel)
AutoImageProcessor.register(
    HabaConfig, image_processor_classes={"pil": HabaImageProcessor, "torchvision": HabaImageProcessor}
)
AutoFeatureExtractor.register(HabaConfig, HabaAudioProcessor)

# ... and everything saved carries its code, so that trust_remote_code=True loads it where haba_hf is not installed.
HabaConfig.register_for_auto_class()
HabaModel.register_for_auto_class("AutoModel")
HabaImageProcessor.register_for_auto_class("AutoImageProcessor")
HabaAudioProcessor.register_for_auto_class("AutoFeatureExtractor")

__all__ = [
    "DistilledArtifact",
    "HabaAudioProcessor",
    "HabaConfig",
    "HabaImageProcessor",
    "HabaModel",
    "HabaOutput",
    "HabaTrainer",
    "HabaTrainingArguments",
    "Hallucinator",
    "StorageReport",
    "distill",
    "register_network",
    "train_student",
]
