"""Dataset distillation by factorization (HaBa) for the Hugging Face ecosystem."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifact.configuration_haba import HabaConfig
    from .artifact.hallucinator_haba import Hallucinator
    from .artifact.modeling_haba import HabaModel
    from .artifact.output_haba import HabaOutput, StorageReport
    from .artifact.processing_audio_haba import HabaAudioProcessor
    from .artifact.processing_haba import HabaImageProcessor
    from .evaluation import train_student
    from .networks import register_network
    from .runs.trainer import DistilledArtifact, HabaTrainer, HabaTrainingArguments, distill
    from .utils.shipped import published_artifact

__version__ = "0.1.0"

# Where each name is; it is imported when it is first asked for.
_HOMES = {
    "DistilledArtifact": ".runs.trainer",
    "HabaAudioProcessor": ".artifact.processing_audio_haba",
    "HabaConfig": ".artifact.configuration_haba",
    "HabaImageProcessor": ".artifact.processing_haba",
    "HabaModel": ".artifact.modeling_haba",
    "HabaOutput": ".artifact.output_haba",
    "HabaTrainer": ".runs.trainer",
    "HabaTrainingArguments": ".runs.trainer",
    "Hallucinator": ".artifact.hallucinator_haba",
    "StorageReport": ".artifact.output_haba",
    "distill": ".runs.trainer",
    "published_artifact": ".utils.shipped",
    "register_network": ".networks",
    "train_student": ".evaluation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


# `import haba_hf` makes AutoModel.from_pretrained know its artifacts. The command `haba` does so when it runs
# something: its --help, and a slip of the keyboard, are answered before torch could be imported.
if Path(sys.argv[0] if sys.argv else "").name not in ("haba", "haba.exe"):
    import_module(".registration", __name__)

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
    "published_artifact",
    "register_network",
    "train_student",
]
