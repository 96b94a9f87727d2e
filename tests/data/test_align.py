from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mbv2kit.data.align import align_classes
from mbv2kit.data.sources import Source, open_source
from mbv2kit.errors import UserError
from mbv2kit.structures import Boxes, Sample
from mbv2kit.weights.class_names import imagenet_classes

MODEL = ("ant", "bee", "cat", "dog")


class Given(Source):
    def __init__(self, class_names: tuple[str, ...], *samples: Sample) -> None:
        self.class_names = class_names
        self.dropped_boxes = 3
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


def sample(**ground_truth: object) -> Sample:
    return Sample(image=np.zeros((2, 3, 3), dtype=np.uint8), image_id="a", **ground_truth)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "ids"),
    [(("dog", "ant", "cat", "bee"), [3, 0, 2, 1]), (("cat", "ant"), [2, 0]), (("bee",), [1])],
)
def test_every_label_keeps_its_name(names: tuple[str, ...], ids: list[int]) -> None:
    count = len(names)
    mask = np.array([[0, count - 1, 255], [255, 0, 0]], dtype=np.uint8)
    boxes = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
    crowd = np.arange(count) % 2 == 1
    source = Given(
        names,
        *(sample(label=label) for label in range(count)),
        sample(boxes=boxes, labels=np.arange(count), crowd=crowd),
        sample(mask=mask),
    )
    aligned = align_classes(source, MODEL)
    assert (aligned.class_names, len(aligned), aligned.dropped_boxes) == (MODEL, count + 2, 3)
    assert [aligned[index].label for index in range(count)] == ids
    detection, segmentation = aligned[count], aligned[count + 1]
    assert detection.labels is not None
    assert detection.labels.dtype == np.int64
    assert detection.labels.tolist() == ids
    assert detection.boxes is not None
    assert detection.crowd is not None
    np.testing.assert_array_equal(detection.boxes, boxes)
    np.testing.assert_array_equal(detection.crowd, crowd)
    assert segmentation.mask is not None
    assert segmentation.mask.dtype == np.uint8
    assert segmentation.mask.tolist() == [[ids[0], ids[-1], 255], [255, ids[0], ids[0]]]


def test_the_source_s_own_samples_are_not_changed() -> None:
    original = sample(label=0, boxes=np.zeros((1, 4), dtype=np.float32), labels=np.array([0]))
    align_classes(Given(("cat",), original), MODEL)[0]
    assert original.label == 0
    assert original.labels is not None
    assert original.labels.tolist() == [0]


def test_an_image_without_objects_stays_one() -> None:
    empty = sample(boxes=np.zeros((0, 4), dtype=np.float32), labels=np.zeros(0, dtype=np.int64))
    labels = align_classes(Given(("cat",), empty), MODEL)[0].labels
    assert labels is not None
    assert labels.shape == (0,)
    assert labels.dtype == np.int64


def test_boxes_are_known_without_reading_images() -> None:
    boxes = np.array([[1, 2, 3, 4]], dtype=np.float32)

    class Knowing(Given):
        def __getitem__(self, index: int) -> Sample:
            raise AssertionError(f"image {index} is read")

        def objects(self) -> Iterator[tuple[tuple[int, int], Boxes]]:
            yield (5, 6), boxes

    aligned = align_classes(Knowing(("cat",)), MODEL)
    assert list(aligned.objects()) == [((5, 6), boxes)]


def test_a_source_with_the_same_classes_is_unchanged() -> None:
    source = Given(MODEL)
    assert align_classes(source, list(MODEL)) is source


def test_a_list_with_other_names_counts_as_equal() -> None:
    source = Given(("Great_White_shark", "crane (n02012849)", "tench, Tinca tinca"), sample(label=1))
    aligned = align_classes(source, ["great white shark", "crane", "tench"])
    assert aligned.class_names == ("great white shark", "crane", "tench")
    assert aligned[0].label == 1
    with pytest.raises(UserError, match="does not know: Great_White_shark"):
        align_classes(source, ["tench", "great white shark", "crane"])


def test_the_thousand_ids_of_imagenet_are_its_thousand_classes() -> None:
    ids = tuple(f"n{number:08d}" for number in range(1000))
    names = [f"animal {number}" for number in range(1000)]
    assert align_classes(Given(ids), names).class_names == tuple(names)
    with pytest.raises(UserError, match="does not know"):
        align_classes(Given(tuple(reversed(ids))), names)


def test_the_common_lists_of_imagenet_count_as_equal(shared_data: Path) -> None:
    source = open_source({"name": "imagenet", "root": shared_data / "imagenet_samples"}, "classification", "val")
    labels = (shared_data / "weights" / "imagenet_labels.txt").read_text().splitlines()[1:]
    for names in (imagenet_classes(), labels):
        aligned = align_classes(source, names)
        assert aligned.class_names == tuple(names)
        assert [aligned[index].label for index in (0, 57, 199)] == [source[index].label for index in (0, 57, 199)]


def test_unknown_classes_are_named() -> None:
    with pytest.raises(UserError, match=r"does not know: cow\. The model knows ant, bee, cat, dog; evaluate"):
        align_classes(Given(("cat", "cow")), MODEL)
    many = tuple(f"c{index}" for index in range(9))
    with pytest.raises(UserError, match=r"c0, c1, c2, c3, c4, \.\.\.\. The model knows x0, x1, x2, x3, x4, \.\.\.;"):
        align_classes(Given(many), [f"x{index}" for index in range(9)])
