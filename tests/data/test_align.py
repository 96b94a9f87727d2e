import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mbv2kit.data.align import align_classes
from mbv2kit.data.sources import Source, open_source
from mbv2kit.errors import UserError
from mbv2kit.structures import Annotated, Boxes, Sample
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


def test_what_a_coco_file_annotates_and_what_is_counted_keep_their_names() -> None:
    annotated = Annotated(
        boxes=np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0]]),
        class_ids=np.array([1, 0]),
        crowd=np.array([False, True]),
        areas=np.array([5.0, 0.5]),
        order=7,
    )

    class Counting(Given):
        knows_classes = True

        def class_ids(self, index: int) -> NDArray[np.int64]:
            return np.array([1, -1, 0, -2, 1])

    aligned = align_classes(Counting(("dog", "bee"), sample(annotated=annotated)), MODEL)
    found = aligned[0].annotated
    assert found is not None
    assert found.class_ids.tolist() == [1, 3]
    assert (found.boxes.tolist(), found.order) == (annotated.boxes.tolist(), 7)
    assert annotated.class_ids.tolist() == [1, 0]
    # What is no class, such as a pixel to ignore, has an id below 0.
    assert aligned.class_ids(0).tolist() == [1, -1, 3, -2, 1]
    assert aligned.knows_classes
    assert not align_classes(Given(("dog", "bee")), MODEL).knows_classes


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


def ids_of(names: Sequence[str], model: Sequence[str]) -> list[int]:
    """The model's class id of each class of a data set."""
    source = Given(tuple(names), *(sample(label=label) for label in range(len(names))))
    aligned = align_classes(source, model)
    assert aligned.class_names == tuple(model)
    return [int(aligned[index].label) for index in range(len(names))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "model"),
    [
        (("rust (heavy)", "rust (light)"), ("rust (light)", "rust (heavy)")),
        (("cat, tabby", "cat, tiger"), ("cat, tiger", "cat, tabby")),
        (("Cat", "cat", "CAT"), ("CAT", "Cat", "cat")),
        (("a_b", "a b"), ("a b", "a_b")),
        (("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")),
    ],
)
def test_equal_names_belong_together_however_similar_others_are(
    names: tuple[str, ...], model: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert ids_of(names, model) == [model.index(name) for name in names]
    assert not caplog.records


def test_names_that_are_left_over_are_compared_loosely_and_said(caplog: pytest.LogCaptureFixture) -> None:
    names = ("Great_White_shark", "crane (n02012849)", "tench, Tinca tinca", "cat", "caf\u00e9")
    model = ("great white shark", "Cat", "crane", "cat", "tench", "CAFE\u0301", "cat (toy)")
    with caplog.at_level(logging.INFO):
        assert ids_of(names, model) == [0, 2, 4, 3, 5]
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(
        "Took 4 classes of the data set for similar ones of the model: 'Great_White_shark' as 'great white shark', "
    )
    assert "'cat'" not in line


def test_the_same_note_in_other_letters_agrees() -> None:
    assert ids_of(["Rust (Heavy)", "Rust (light)"], ["rust (light)", "rust (heavy)"]) == [1, 0]


@pytest.mark.parametrize(
    ("names", "model", "message"),
    [
        (
            ("rust", "ok"),
            ("ok", "rust (heavy)", "rust (light)"),
            r"class 'rust' may each be .* 'rust \(heavy\)', 'rust",
        ),
        (("RUST", "Rust"), ("rust", "ok"), "classes 'RUST', 'Rust' may each be the model's class 'rust'; give them"),
        (("oak", "RUST", "Rust"), ("rust", "Oak"), "classes 'RUST', 'Rust' may each be the model's class 'rust'; give"),
        (("rust (heavy)", "rust (light)"), ("rust", "ok"), r"classes 'rust \(heavy\)', 'rust \(light\)' may each be"),
        (("rust (light)", "ok"), ("ok", "rust (heavy)"), r"does not know: rust \(light\)\."),
        (("cat", "cat (toy)"), ("cat", "dog"), r"does not know: cat \(toy\)\."),
        (("a", "b", "c"), ("a", "b", "x"), r"does not know: c\."),
    ],
)
def test_what_could_be_another_class_is_refused(names: tuple[str, ...], model: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        align_classes(Given(names), model)


@given(
    model=st.lists(st.text("aAbB_( ,)", min_size=1, max_size=4), min_size=1, max_size=8, unique=True),
    data=st.data(),
)
def test_any_order_of_the_same_names_is_followed(model: list[str], data: st.DataObject) -> None:
    names = data.draw(st.permutations(model))
    assert ids_of(names, model) == [model.index(name) for name in names]


def numbered(*first: str) -> list[str]:
    """A thousand names that begin as those of ImageNet do."""
    start = ["tench", "goldfish", "great white shark", *first]
    return start + [f"animal {number}" for number in range(len(start), 1000)]


def test_lists_of_imagenet_go_by_place_where_they_name_a_class_differently(caplog: pytest.LogCaptureFixture) -> None:
    names = numbered("crane (n02012849)", "crane (n03126707)", "tiger", "lion")
    model = numbered("crane bird", "crane", "lion", "tiger")
    with caplog.at_level(logging.INFO):
        ids = ids_of(names, model)
    # Tiger and lion have only changed places; the second crane of the data set is no bird.
    assert ids == [0, 1, 2, 3, 4, 6, 5, *range(7, 1000)]
    assert [record.message for record in caplog.records] == [
        "Took 2 classes of the data set for similar ones of the model: 'crane (n02012849)' as 'crane bird', "
        "'crane (n03126707)' as 'crane'"
    ]


def test_a_class_whose_name_means_another_one_in_the_other_list_keeps_its_place() -> None:
    names, model = numbered("crane", "hoist"), numbered("crane bird", "crane")
    assert ids_of(names, model) == list(range(1000))


def test_lists_of_imagenet_differ_in_ten_names_at_most_and_never_in_their_order() -> None:
    names = numbered()
    assert ids_of(names, [*names[:990], *(f"beast {number}" for number in range(10))]) == list(range(1000))
    for model in ([*names[:989], *(f"beast {number}" for number in range(11))], [*names[:3], *names[4:], "beast"]):
        with pytest.raises(UserError, match=r"does not know: animal"):
            align_classes(Given(tuple(names)), model)


def test_one_id_of_imagenet_does_not_make_a_list_of_ids() -> None:
    names = ("n00000001", *(f"part {number:03}" for number in range(999)))
    with pytest.raises(UserError, match=r"does not know: n00000001\."):
        align_classes(Given(names), ["bolt", *names[1:]])


def test_a_thousand_classes_of_another_kind_never_go_by_place() -> None:
    names, model = ([f"part {number}" for number in range(999)] + [last] for last in ("bolt", "nut"))
    with pytest.raises(UserError, match=r"does not know: bolt\."):
        align_classes(Given(tuple(names)), model)


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


def test_a_model_that_only_numbers_its_classes_can_be_given_their_names() -> None:
    with pytest.raises(UserError, match=r"The model knows class_0, class_1; name its classes with class_names=FILE"):
        align_classes(Given(("cat", "dog")), ("class_0", "class_1"))
