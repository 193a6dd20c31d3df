"""Dataset distillation by factorization (HaBa) for the Hugging Face ecosystem."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel

from .artifact.configuration_haba import HabaConfig
from .artifact.hallucinator_haba import Hallucinator
from .artifact.modeling_haba import HabaModel
from .artifact.output_haba import HabaOutput, StorageReport
from .artifact.processing_audio_haba import HabaAudioProcessor
from .artifact.processing_haba import HabaImageProcessor

__version__ = "0.1.0"

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
    "HabaAudioProcessor",
    "HabaConfig",
    "HabaImageProcessor",
    "HabaModel",
    "HabaOutput",
    "Hallucinator",
    "StorageReport",
]
