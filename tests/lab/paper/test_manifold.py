"""The experiment of Figure 1 against closed forms."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.errors import UserError
from mbv2kit.lab.paper.manifold import DIMENSIONS, Embedding, Survival, embed, experiment, spiral

SEEDS = 100


@cache
def measured() -> dict[int, Survival]:
    return {survival.dimensions: survival for survival in experiment(SEEDS)}


def test_the_spiral_winds_two_and_a_half_times_around_the_origin_in_even_steps() -> None:
    points = spiral(2000)
    radius = np.hypot(*points.T)
    angle = np.unwrap(np.arctan2(points[:, 1], points[:, 0]))
    steps = np.hypot(*np.diff(points, axis=0).T)
    assert points.shape == (2000, 2)
    assert radius[-1] == pytest.approx(1)
    assert (np.diff(radius) > 0).all()
    np.testing.assert_allclose(angle, 5 * np.pi * radius + angle[0] - 5 * np.pi * radius[0], atol=1e-9)
    assert steps[200:].max() / steps[200:].min() < 1.2


def test_an_embedding_by_hand() -> None:
    matrix = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    points = np.array([[3.0, 4.0], [3.0, -4.0], [0.0, -4.0], [-3.0, 4.0]])
    # T relu(T x): (3, 4, 0), (3, 0, 0), nothing, (0, 4, 3); the pseudo-inverse is ((1/2, 0, -1/2), (0, 1, 0)).
    restored = np.array([[1.5, 4.0], [1.5, 0.0], [0.0, 0.0], [-1.5, 4.0]])
    embedding = Embedding(points, matrix, active=points @ matrix.T > 0, restored=restored)
    np.testing.assert_allclose(np.maximum(points @ matrix.T, 0) @ np.linalg.pinv(matrix).T, restored, atol=1e-12)
    assert embedding.lost.tolist() == [False, False, True, False]
    assert embedding.recoverable.tolist() == [True, False, False, True]
    assert embedding.error == pytest.approx(np.sqrt((2.25 * 3 + 16 * 2) / (9 * 3 + 16 * 4)))


def test_parallel_rows_do_not_make_a_point_recoverable() -> None:
    points = np.array([[1.0, 2.0]])
    matrix = np.array([[1.0, 1.0], [0.1, 0.1], [300.0, 300.0]])
    embedding = Embedding(points, matrix, active=np.ones((1, 3), np.bool_), restored=points)
    assert embedding.recoverable.tolist() == [False]


@given(st.sampled_from(DIMENSIONS), st.integers(0, 999))
def test_recoverable_points_follow_from_their_active_channels(dimensions: int, seed: int) -> None:
    embedding = embed(spiral(60), dimensions, seed)
    for point, recoverable in zip(embedding.points, embedding.recoverable, strict=True):
        channels = np.maximum(embedding.matrix @ point, 0)
        rows = embedding.matrix[channels > 0]
        assert recoverable == (len(rows) >= 2)
        if recoverable:
            found = np.linalg.lstsq(rows, channels[channels > 0])[0]
            np.testing.assert_allclose(found, point, atol=1e-8)


@given(st.integers(0, 999))
def test_points_that_survive_few_dimensions_survive_more(seed: int) -> None:
    embeddings = [embed(spiral(60), dimensions, seed) for dimensions in DIMENSIONS]
    for fewer, more in pairwise(embeddings):
        np.testing.assert_array_equal(more.matrix[: len(fewer.matrix)], fewer.matrix)
        assert (fewer.lost >= more.lost).all()
        assert (fewer.recoverable <= more.recoverable).all()


@given(st.sampled_from(DIMENSIONS), st.integers(0, 999))
def test_the_fitted_error_ignores_scale_and_is_below_the_error_of_any_scale(dimensions: int, seed: int) -> None:
    embedding = embed(spiral(60), dimensions, seed)
    assert 0 <= embedding.fitted_error <= 1
    for scale in (0.5, 1.0, 2.0):
        scaled = Embedding(embedding.points, embedding.matrix, embedding.active, scale * embedding.restored)
        assert scaled.fitted_error == pytest.approx(embedding.fitted_error)
        assert scaled.fitted_error <= scaled.error + 1e-9


def test_a_linear_image_of_the_points_has_no_fitted_error() -> None:
    points = spiral()
    image = points @ np.array([[0.5, 0.2], [-0.1, 0.4]])
    embedding = Embedding(points, np.eye(2), active=np.ones((len(points), 2), np.bool_), restored=image)
    assert embedding.error > 0.4
    assert embedding.fitted_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_the_shares_match_the_closed_forms(dimensions: int) -> None:
    survival = measured()[dimensions]
    none_active, one_active = 0.5**dimensions, dimensions * 0.5**dimensions
    for spread, expected in ((survival.lost, none_active), (survival.recoverable, 1 - none_active - one_active)):
        # A share that no seed shows has a deviation of 0.
        tolerance = max(3 * spread.deviation / np.sqrt(SEEDS), 1e-3)
        assert spread.mean == pytest.approx(expected, abs=tolerance)


def test_more_dimensions_lose_less() -> None:
    rows = [measured()[dimensions] for dimensions in DIMENSIONS]
    for fewer, more in pairwise(rows):
        assert fewer.lost.mean >= more.lost.mean
        assert fewer.recoverable.mean <= more.recoverable.mean
        assert fewer.error.mean > more.error.mean
        assert fewer.error.median > more.error.median
        assert fewer.fitted_error.mean > more.fitted_error.mean


def test_in_many_dimensions_half_of_each_point_is_restored_and_the_fitted_error_vanishes() -> None:
    embedding = embed(spiral(200), 100_000, seed=0)
    np.testing.assert_allclose(embedding.restored, embedding.points / 2, atol=0.01)
    assert embedding.error == pytest.approx(0.5, abs=0.01)
    assert embedding.fitted_error < 0.02


def test_statistics_are_taken_over_the_seeds() -> None:
    lost = [embed(spiral(), 2, seed).lost.mean() for seed in range(5)]
    survival = experiment(seeds=5)[0]
    assert survival.lost.mean == pytest.approx(np.mean(lost))
    assert survival.lost.deviation == pytest.approx(np.sqrt(np.sum((lost - np.mean(lost)) ** 2) / 4))
    assert survival.lost.median == sorted(lost)[2]
    assert experiment(seeds=5) == experiment(seeds=5)


def test_invalid_dimensions_and_seeds_are_refused() -> None:
    with pytest.raises(UserError, match=r"dimensions must be at least 2, got 1\."):
        embed(spiral(), 1, seed=0)
    with pytest.raises(UserError, match=r"seeds must be at least 2, got 1\."):
        experiment(seeds=1)
