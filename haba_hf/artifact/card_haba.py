"""The card of a model that is pushed alone: what its config tells, and how to load it."""

import json
from collections.abc import Sequence

from huggingface_hub import ModelCardData

from .configuration_haba import HabaConfig

TEMPLATE = """---
{metadata}
---

# {name}

A training set of {num_labels} classes: {parts}, in all {num_samples} samples of shape {shape}.

## Load

```python
from haba_hf import HabaModel
model = HabaModel.from_pretrained({repo_id})
output = model.materialize()
print(output.samples.shape, output.labels.shape)
```

Without haba_hf, if you trust the code in this repository:

```python
from transformers import AutoModel
model = AutoModel.from_pretrained({repo_id}, trust_remote_code=True)
print(model.materialize().samples.shape)
```

This is the model alone. `haba push` or `haba_hf.hub.push_artifact` publishes an artifact's folder whole: with its
processor, which real test data go through, recipe, records, figures, and a card that says where it comes from and
what was measured.
"""


def short_card(config: HabaConfig, repo_id: str, tags: Sequence[str] = ()) -> str:
    """Metadata and Markdown of a model repository without processor and records."""
    learned = ["dataset-distillation"] if config.num_hallucinators else []  # plain pixels may be chosen images
    metadata = ModelCardData(library_name="haba_hf", tags=list(dict.fromkeys([*learned, "haba", *tags])))
    others = f"stored as {config.basis_storage.replace('_', ' and ')}"
    if config.num_hallucinators:
        others += f" and {config.num_hallucinators} hallucinators"
    return TEMPLATE.format(
        metadata=metadata.to_yaml().strip(),
        name=repo_id.split("/")[-1],
        num_labels=config.num_labels,
        parts=f"{config.num_bases} bases {others}",
        num_samples=config.num_samples,
        shape=" x ".join(str(size) for size in config.sample_shape),
        repo_id=json.dumps(repo_id),
    )
