"""How an artifact is saved, loaded and pushed: strictly, in the bits of its config, and bit for bit."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME, is_peft_available, logging

from .card_haba import short_card
from .configuration_haba import HabaConfig
from .files_haba import find_file
from .storage_haba import decode_int8, encode_int8

logger = logging.get_logger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
ONE_FILE = "1TB"
FLOATS = ("F32", "BF16", "F16")
INTEGERS = {torch.int8: ("I8",), torch.int64: ("I64",)}

# The part of the storage that a parameter is of, by the first of its name.
PARTS = {
    "encoder": "hallucinators",
    "decoder": "hallucinators",
    "label_logits": "labels",
    "raw_step_sizes": "step_sizes",
}


def part_of(name: str) -> str:
    first = name.split(".")[0]
    return PARTS.get(first, first)


class StoredModel(PreTrainedModel):
    """
    A model whose learned numbers are float32 in memory and saved in the bits of `config.storage_dtype`.

    Attributes:
        bases (`nn.Parameter` `[N, *config.stored_shape]`).
        basis_codes (`torch.CharTensor` of their shape), basis_scales (`torch.Tensor` `[N, Q]`): what is saved in place
            of bases in 8 bits, which alone have them.
    """

    config: HabaConfig
    bases: nn.Parameter
    basis_codes: Tensor
    basis_scales: Tensor
    class_ids: Tensor
    student_learning_rate: nn.Parameter

    def _register_codes(self) -> None:
        """What is saved in place of the bases, where they are saved in 8 bits."""
        if self.config.storage_dtype == "int8":
            self.register_buffer("basis_codes", torch.empty(self.bases.shape, dtype=torch.int8))
            scales = torch.empty(len(self.bases), len(self.config.plane_numbers))
            self.register_buffer("basis_scales", scales)
            self._keys_to_ignore_on_save = {"bases"}
            self._keys_to_ignore_on_load_missing = {"^bases$"}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args: Any,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        As in transformers, but strict: part of a distilled data set is not a distilled data set.

        Args:
            output_loading_info (`bool`, *optional*, defaults to `False`):
                Return the model and a report of missing, unexpected and mismatched weights, and initialize what does
                not fit instead of refusing it.

        Raises:
            `ValueError`: if the safetensors file is cut off, or does not hold exactly the weights of the config.
            `OSError`: if there is no safetensors file (pickled weights are not loaded).
        """
        source = pretrained_model_name_or_path or "state_dict"
        kwargs["use_safetensors"] = True  # a pickle can run code
        file = None
        if pretrained_model_name_or_path is not None and kwargs.get("variant") is None:
            file = _only_file_of_weights(pretrained_model_name_or_path, kwargs)
        try:
            model, report = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **kwargs,
            )
        except SafetensorError as error:
            raise ValueError(
                f"The safetensors file of {source} is cut off or is none ({error}): save or download it again."
            ) from error
        model._decode_bases()
        if output_loading_info:
            return model, report
        if ignore_mismatched_sizes:
            report["mismatched_keys"] = set()
        _refuse_misfits(source, report)
        if file is not None:
            model._check_bits(source, file)
        model._check_values(source)
        return model

    def _check_bits(self, source: Any, file: str) -> None:
        """Refuses a file whose numbers are of another kind than the model's: transformers would convert them."""
        with safe_open(file, framework="pt") as weights:
            for name, tensor in self._stored_state().items():
                kinds = FLOATS if tensor.is_floating_point() else INTEGERS[tensor.dtype]
                found = weights.get_slice(name).get_dtype()
                if found not in kinds:
                    raise ValueError(
                        f"{name} of {source} is saved as {found} in place of {' or '.join(kinds)}: save or download "
                        "it again."
                    )

    def _check_values(self, source: Any) -> None:
        """Refuses what no training gives, and labels that are not those of their bases."""
        named = [*self.named_parameters(), *self.named_buffers()]
        wrong = [name for name, tensor in named if tensor.is_floating_point() and not tensor.isfinite().all()]
        if wrong:
            raise ValueError(f"{source} holds NaN or infinite numbers ({', '.join(wrong[:3])}): distil it again.")
        of_bases = torch.arange(self.config.num_bases, device=self.class_ids.device) // self.config.bases_per_class
        if not torch.equal(self.class_ids, of_bases):
            raise ValueError(f"The class_ids of {source} are not those of its bases, bases_per_class of each class.")
        if self.student_learning_rate <= 0:
            raise ValueError(f"The student_learning_rate of {source} is not positive: distil it again.")

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """
        As in transformers, in the bits of `config.storage_dtype`: what is learned is first rounded to them, so that a
        model is afterwards, bit for bit, what is loaded again. Whatever `max_shard_size` says, weights are one file,
        `model.safetensors`, which alone is read.
        """
        kwargs["max_shard_size"] = ONE_FILE
        if kwargs.get("state_dict") is None:
            self.round_to_storage()
            kwargs["state_dict"] = self._stored_state()
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def round_to_storage(self) -> None:
        """Rounds what is learned to the numbers that `config.storage_dtype` can save; they stay float32 in memory."""
        if self.config.storage_dtype == "float32":
            return
        for name, parameter in self.named_parameters():
            if self.config.bytes_per_number.get(part_of(name)) == 2:
                parameter.copy_(parameter.bfloat16())
        if self.config.storage_dtype == "int8" and not torch.equal(self.bases, self._decoded_bases()):
            codes, scales = encode_int8(self.bases, self.config)
            self.basis_codes.copy_(codes)
            self.basis_scales.copy_(scales)
            self._decode_bases()

    def _stored_state(self) -> dict[str, Tensor]:
        """What is saved, in its bits; the bases of int8 are their codes and scales."""
        bytes_per_number = self.config.bytes_per_number
        return {
            name: tensor.bfloat16() if bytes_per_number.get(part_of(name)) == 2 else tensor
            for name, tensor in self.state_dict().items()
            if not (name == "bases" and self.config.storage_dtype == "int8")
        }

    def _decoded_bases(self) -> Tensor:
        return decode_int8(self.basis_codes, self.basis_scales, self.config).to(self.bases.dtype)

    @torch.no_grad()
    def _decode_bases(self) -> None:
        if self.config.storage_dtype == "int8":
            self.bases.copy_(self._decoded_bases())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: str | Sequence[str] = (),
    ) -> str:
        """
        As in transformers: weights, config and code, with a short card in place of any card that is there, which may
        be of other weights. Processor, records, figures and the full card are of an artifact's folder, which
        `haba_hf.hub.push_artifact` publishes.
        """
        api = HfApi(token=token, library_name="haba_hf")
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        tags = [tags] if isinstance(tags, str) else tags
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            card = short_card(self.config, repo_id, [*(self.model_tags or ()), *tags])
            Path(folder, "README.md").write_text(card, encoding="utf-8")
            logger.warning(
                f"Weights, config, code and a short card go to {repo_id}: haba_hf.hub.push_artifact (or haba push) "
                "brings the processor, the records and the full card of an artifact's folder."
            )
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload model",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )


def _only_file_of_weights(source: str | os.PathLike, options: dict[str, Any]) -> str:
    """`model.safetensors`: neither parts of weights that an index names nor an adapter's base model."""
    if is_peft_available():  # it would be looked for, and its base model loaded
        with suppress(OSError):
            find_file(source, ADAPTER_CONFIG, options)
            raise ValueError(f"{source} holds an adapter ({ADAPTER_CONFIG}), which no haba artifact has.")
    return find_file(source, SAFE_WEIGHTS_NAME, options)


def _refuse_misfits(source: Any, report: dict) -> None:
    mismatched = {name for name, *_ in report["mismatched_keys"]}
    misfits = {
        "missing": report["missing_keys"],
        "unexpected": report["unexpected_keys"],
        "of another shape": mismatched,
    }
    found = [f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])})" for what, keys in misfits.items() if keys]
    if found:
        raise ValueError(
            f"The safetensors file of {source} does not hold the weights of this haba config: {', '.join(found)}. "
            "Load an artifact with its own config, or with output_loading_info=True to initialize what does not fit."
        )
