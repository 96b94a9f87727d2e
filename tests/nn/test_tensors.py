import numpy as np
import torch

from mbv2kit.nn.tensors import images_to_tensor, storage_id, tensors_in


def test_images_become_planes_with_channels_last_memory() -> None:
    images = [np.arange(24, dtype=np.uint8).reshape(2, 4, 3) + offset for offset in (0, 100)]
    batch = images_to_tensor(images)
    assert batch.shape == (2, 3, 2, 4)
    assert batch[1, 2, 0, 3] == images[1][0, 3, 2]
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_tensors_are_found_in_nested_containers_in_order() -> None:
    a, b, c = torch.zeros(3, 1).unbind()
    found = list(tensors_in({"first": [a, "text", (None, b)], "second": c, "third": 3}))
    assert len(found) == 3
    assert all(one is other for one, other in zip(found, (a, b, c), strict=True))


def test_views_share_the_id_of_their_storage() -> None:
    base = torch.zeros(4, 4)
    assert storage_id(base) == storage_id(base[1:, ::2]) == storage_id(base.view(16))
    assert storage_id(base) != storage_id(base.clone())
