import numpy as np
import pytest

from mbv2kit.data.sources import create_source, shapes
from mbv2kit.data.sources.shapes import _OUTLINES, CLASSES, Scene, _area, draw_scene
from mbv2kit.errors import UserError


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.default_rng(seed), 160) for seed in range(150)]


def test_a_scene_does_not_depend_on_earlier_ones() -> None:
    first = create_source("shapes", task="segmentation", split="train")
    second = create_source("shapes", task="segmentation", split="train", train_count=9)
    for index in (7, 3, 7):
        a, b = first[index], second[index]
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.mask, b.mask)
        assert a.image_id == b.image_id


def test_no_more_scenes_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_KEPT_BYTES", 2 * 64 * 64 * 4)
    source = shapes.Shapes(task="classification", split="train", size=64)
    fresh = [source[index].image for index in range(3)]
    again = [source[index].image for index in range(3)]
    np.testing.assert_array_equal(fresh, again)
    assert [a is b for a, b in zip(fresh, again, strict=True)] == [True, True, False]


def test_a_ring_has_a_hole(scenes: list[Scene]) -> None:
    for scene in scenes:
        if CLASSES[scene.classes[0]] == "ring":
            x1, y1, x2, y2 = scene.boxes()[0]
            assert scene.owner[round((y1 + y2) / 2), round((x1 + x2) / 2)] != 1


def test_scenes_differ_between_indices_splits_and_seeds() -> None:
    train = create_source("shapes", task="classification", split="train")
    others = [
        train[1],
        create_source("shapes", task="classification", split="val")[0],
        create_source("shapes", task="classification", split="train", seed=1)[0],
    ]
    assert all((train[0].image != other.image).mean() > 0.5 for other in others)


def test_the_three_tasks_agree() -> None:
    label, boxes, mask = (
        create_source("shapes", task=task, split="val")[5] for task in ("classification", "detection", "segmentation")
    )
    np.testing.assert_array_equal(label.image, boxes.image)
    np.testing.assert_array_equal(label.image, mask.image)
    assert boxes.labels is not None
    assert mask.mask is not None
    assert label.label == boxes.labels[0]
    assert set(np.unique(mask.mask)) - {0} == {int(k) + 1 for k in boxes.labels}
    assert (label.boxes, label.mask, boxes.label, boxes.mask, mask.label, mask.boxes) == (None,) * 6


def test_class_names_count_the_background_for_segmentation_only() -> None:
    names = {t: create_source("shapes", task=t, split="val").class_names for t in ("detection", "segmentation")}
    assert names["detection"] == CLASSES
    assert names["segmentation"] == ("background", *CLASSES)


def test_boxes_are_tight_around_visible_parts(scenes: list[Scene]) -> None:
    for scene in scenes:
        for shape, box in enumerate(scene.boxes(), start=1):
            rows, columns = np.nonzero(scene.owner == shape)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_the_main_shape_is_clearly_the_largest(scenes: list[Scene]) -> None:
    for scene in scenes:
        visible = np.bincount(scene.owner.ravel(), minlength=len(scene.classes) + 1)[1:]
        assert visible[0] >= 1.5 * max(visible[1:], default=0)
        # The smallest shape (0.22) with its smallest visible fraction (0.6).
        assert (visible >= 0.6 * (0.22 * 160) ** 2 - 1).all()


def test_masks_hold_the_class_of_each_shape(scenes: list[Scene]) -> None:
    for scene in scenes:
        mask = scene.mask()
        assert ((mask == 0) == (scene.owner == 0)).all()
        for shape, kind in enumerate(scene.classes, start=1):
            assert (mask[scene.owner == shape] == kind + 1).all()


def test_scenes_hold_one_to_three_shapes_of_all_classes_that_overlap(scenes: list[Scene]) -> None:
    counts = {len(scene.classes) for scene in scenes}
    assert counts == {1, 2, 3}
    mains = np.bincount([scene.classes[0] for scene in scenes], minlength=len(CLASSES))
    assert (mains > len(scenes) / len(CLASSES) / 2).all()
    crossing = 0
    for scene in scenes:
        x1, y1, x2, y2 = scene.boxes().T
        meets = (x1[:, None] < x2) & (x2[:, None] > x1) & (y1[:, None] < y2) & (y2[:, None] > y1)
        crossing += int(meets.sum() > len(scene.classes))
    assert crossing > len(scenes) / 4


def test_color_and_size_say_nothing_about_the_class(scenes: list[Scene]) -> None:
    kinds = np.array([scene.classes[0] for scene in scenes])
    colors = np.array([scene.image[scene.owner == 1].mean(axis=0) for scene in scenes])
    areas = np.array([(scene.owner == 1).sum() for scene in scenes])
    for values in (*colors.T, areas):
        means = np.array([values[kinds == kind].mean() for kind in range(len(CLASSES))])
        # Means of random groups spread by sigma / sqrt(n); four times that would reveal the class.
        assert np.abs(means - values.mean()).max() < 4 * values.std() / np.sqrt(len(scenes) / len(CLASSES))


def test_a_shape_stands_out_from_its_surroundings(scenes: list[Scene]) -> None:
    for scene in scenes:
        main = scene.image[scene.owner == 1].mean(axis=0)
        assert np.linalg.norm(main - scene.image[scene.owner == 0].mean(axis=0)) > 80


def test_outlines_have_area_one_and_distinct_forms() -> None:
    assert [_area(outline) for outline in _OUTLINES] == pytest.approx([1.0] * len(CLASSES))
    reach = [np.linalg.norm(outline[0], axis=1).max() for outline in _OUTLINES]
    assert reach[CLASSES.index("circle")] == pytest.approx(1 / np.sqrt(np.pi), rel=0.01)
    assert reach[CLASSES.index("square")] == pytest.approx(np.sqrt(0.5))
    assert reach[CLASSES.index("triangle")] == pytest.approx(2 / 27**0.25)


@pytest.mark.parametrize("size", [64, 97, 320])
def test_scenes_of_any_size(size: int) -> None:
    sample = create_source("shapes", task="detection", split="val", size=size, val_count=4)[3]
    assert sample.image.shape == (size, size, 3)
    assert sample.boxes is not None
    assert sample.boxes.min() >= 0
    assert sample.boxes.max() <= size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "no split 'test'; splits found: train, val"),
        ({"size": 32}, "^dataset 'shapes': size must be a whole number from 64 to 8,192, got 32"),
        ({"val_count": 0}, "^dataset 'shapes': val_count must be a whole number from 1 to 1,000,000, got 0"),
        ({"seed": -1}, "^dataset 'shapes': seed must be a whole number from 0 to 4,294,967,295, got -1"),
    ],
)
def test_mistakes_are_reported(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_source("shapes", **{"task": "detection", "split": "val", **options})  # type: ignore[arg-type]


def test_an_index_outside_ends_a_loop() -> None:
    source = create_source("shapes", task="classification", split="val", val_count=3)
    assert [sample.image_id for sample in source] == ["val_00000", "val_00001", "val_00002"]  # type: ignore[attr-defined]
