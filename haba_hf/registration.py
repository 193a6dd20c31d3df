"""Makes transformers know haba's classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel

from .artifact.configuration_haba import HabaConfig
from .artifact.modeling_haba import HabaModel
from .artifact.processing_audio_haba import HabaAudioProcessor
from .artifact.processing_haba import HabaImageProcessor

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
