"""Experts of the tiny network, and what is in their files."""

import dataclasses

from safetensors import safe_open

from haba_hf.distillation import record_experts
from tiny import NETWORK, tiny_accelerator, tiny_data
from tiny_runs import stored


def tiny_experts(directory, **settings):
    return dataclasses.replace(stored(directory), **settings)


def record(arguments, data=None, num_snapshots=3, network=NETWORK):
    return record_experts(data or tiny_data(), network, arguments, num_snapshots, tiny_accelerator())


def contents(path):
    """Every bit of an expert file; safetensors writes metadata in any order."""
    with safe_open(path, framework="pt") as file:
        snapshots = file.get_tensor("snapshots")
        return file.metadata(), snapshots.dtype, snapshots.numpy().tobytes()
