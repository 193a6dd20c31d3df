"""Training images on an accelerator: kept there where there is room, else copied call by call."""

import pytest
import torch

from haba_hf.data import image_data
from tiny import tiny_data


@pytest.mark.parametrize(("free", "kept"), [(2, True), (2 - 1e-3, False)])
def test_images_are_kept_on_a_device_with_twice_the_room(monkeypatch, free, kept):
    data, device = tiny_data(), torch.device("meta")  # which has shapes and a place alone
    copied, move = [], torch.Tensor.to

    def counted(tensor, *arguments, **settings):
        if tensor.dtype == torch.uint8 and arguments[:1] == (device,):
            copied.append(len(tensor))
        return move(tensor, *arguments, **settings)

    monkeypatch.setattr(image_data, "free_memory", lambda _: free * data.train.images.nbytes)
    monkeypatch.setattr(torch.Tensor, "to", counted)
    for rows in (torch.tensor([3, 1]), torch.tensor([0, 2, 5])):
        images = data.normalized(rows, device)
        assert images.device == device and images.shape == (len(rows), 3, 8, 8)
    assert [count for count in copied if count == len(data.train)] == ([len(data.train)] if kept else [])
    assert data.train.images.device.type == "cpu"


def test_on_a_cpu_nothing_is_asked_of_a_device(monkeypatch):
    monkeypatch.setattr(image_data, "free_memory", None)
    data, rows = tiny_data(), torch.tensor([3, 1])
    assert torch.equal(data.normalized(rows, torch.device("cpu")), data.processor.normalize(data.train.images[rows]))
