"""The experiment of Figure 1: how much of a low-dimensional manifold survives ReLU (Section 3.2).

A random Gaussian matrix T embeds a spiral from 2 into n dimensions, ReLU sets negative channels to zero, and the
pseudo-inverse of T projects the rest back into the plane. The more dimensions, the more of the spiral survives.

Two shares have a closed form. For any point, each of the n channels is negative with probability 1/2, independently of
the others. All are negative, so that the point is lost, with probability 2^-n. At least two are positive, so that the
point can be recovered, with probability 1 - (n + 1) 2^-n.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError

DIMENSIONS = (2, 3, 5, 15, 30)
TURNS = 2.5
INNER_RADIUS = 0.08
# Rows of T whose directions differ by less than about 1e-6 radians count as dependent, because of rounding.
LEAST_DETERMINANT = 1e-12

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Embedding:
    """Points and their restorations from n dimensions after ReLU.

    Attributes:
        points: ``(P, 2)`` points.
        matrix: T, ``(n, 2)``.
        active: ``(P, n)``, which channels of each point are positive.
        restored: ``(P, 2)``, the channels after ReLU times the pseudo-inverse of T.
    """

    points: Floats
    matrix: Floats
    active: Flags
    restored: Floats

    @property
    def lost(self) -> Flags:
        """Which points have no active channel and so become zero; ``(P,)``."""
        lost: Flags = self.active.sum(axis=1) == 0
        return lost

    @property
    def recoverable(self) -> Flags:
        """Which points have two active channels with independent rows of T; ``(P,)``.

        For these ReLU is invertible: the point is the only solution of the active channels' linear equations.
        """
        x, y = self.matrix.T
        # The Gram matrix of a point's active rows is singular exactly if no two of them are independent.
        xx, xy, yy = (self.active @ products for products in (x * x, x * y, y * y))
        recoverable: Flags = xx * yy - xy**2 > LEAST_DETERMINANT * (xx + yy) ** 2
        return recoverable

    @property
    def error(self) -> float:
        """RMS distance of the restored points from the points, relative to the RMS of the points.

        It tends to 1/2 with n, not to 0: relu(z) is (z + abs(z)) / 2. The first term restores half of the point. The
        second is the same for a point and its negative, so it averages out over many rows of T.
        """
        return _relative_error(self.points, self.restored)

    @property
    def fitted_error(self) -> float:
        """The same error after the best linear fit of the restored points to the points; in 0..1.

        The fit removes the factor of 1/2 and most of the error that a nearly singular T amplifies. It is 0 if the
        restored points are a linear image of the points, 1 if they are linearly unrelated. It tends to 0 with n.
        """
        fit = np.linalg.lstsq(self.restored, self.points)[0]
        return _relative_error(self.points, self.restored @ fit)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean, standard deviation and median of a number over several seeds."""

    mean: float
    deviation: float
    median: float


@dataclass(frozen=True, slots=True)
class Survival:
    """How much of the spiral survives in n dimensions, over many random T.

    Attributes:
        dimensions: n.
        lost: Share of points without an active channel, in 0..1; expected: 2^-n.
        recoverable: Share of points that their active channels determine, in 0..1; expected: 1 - (n + 1) 2^-n.
        error: Error of the projection, see :attr:`Embedding.error`. For n = 2 some T are nearly singular, with errors
            so large that the mean does not converge over the seeds; the median does.
        fitted_error: Error after a linear fit, see :attr:`Embedding.fitted_error`; use this to compare n.
    """

    dimensions: int
    lost: Statistics
    recoverable: Statistics
    error: Statistics
    fitted_error: Statistics


def spiral(count: int = 1000) -> Floats:
    """Returns ``(count, 2)`` evenly spaced points along two and a half turns around the origin, radius up to 1."""
    # The arc length of an Archimedean spiral grows with the square of its radius.
    radius = np.sqrt(np.linspace(INNER_RADIUS**2, 1, count))
    angle = 2 * np.pi * TURNS * radius
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def embed(points: Floats, dimensions: int, seed: int) -> Embedding:
    """Embeds points by a random T, applies ReLU and projects back.

    Args:
        points: ``(P, 2)`` points.
        dimensions: n, at least 2.
        seed: Seed of T, whose entries are N(0, 1). For the same seed a larger T begins with the rows of a smaller one.

    Raises:
        UserError: ``dimensions`` is below 2.
    """
    if dimensions < 2:
        raise UserError(f"dimensions must be at least 2, got {dimensions}.")
    matrix = np.random.default_rng(seed).standard_normal((dimensions, 2))
    channels = np.maximum(points @ matrix.T, 0)
    return Embedding(points, matrix, active=channels > 0, restored=channels @ np.linalg.pinv(matrix).T)


def experiment(seeds: int = 100) -> tuple[Survival, ...]:
    """Runs the experiment for the paper's numbers of dimensions, with seeds 0 to ``seeds - 1``.

    Raises:
        UserError: ``seeds`` is below 2.
    """
    if seeds < 2:
        raise UserError(f"seeds must be at least 2, got {seeds}.")
    points = spiral()
    measured = []
    for dimensions in DIMENSIONS:
        embeddings = [embed(points, dimensions, seed) for seed in range(seeds)]
        measured.append(
            Survival(
                dimensions,
                lost=_statistics([embedding.lost.mean() for embedding in embeddings]),
                recoverable=_statistics([embedding.recoverable.mean() for embedding in embeddings]),
                error=_statistics([embedding.error for embedding in embeddings]),
                fitted_error=_statistics([embedding.fitted_error for embedding in embeddings]),
            )
        )
    return tuple(measured)


def _relative_error(points: Floats, restored: Floats) -> float:
    return float(np.linalg.norm(restored - points) / np.linalg.norm(points))


def _statistics(values: list[float]) -> Statistics:
    return Statistics(float(np.mean(values)), float(np.std(values, ddof=1)), float(np.median(values)))
