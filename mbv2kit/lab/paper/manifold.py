"""What ReLU leaves of a curve that lies in a few of many dimensions: the experiment of Figure 1 (Section 3.2).

A matrix T with Gaussian entries carries a spiral from 2 into n dimensions, ReLU cuts off what is negative there, and
the pseudo-inverse of T brings the rest back into the plane. The more dimensions, the more of the spiral survives.

Two numbers have a closed form. Whatever the point, each of the n channels is negative for half of all T, independently
of the others. So all of them are, and the point is lost, for 2^-n; and at least two are positive, from which the point
can be worked out, for 1 - (n + 1) 2^-n.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError

DIMENSIONS = (2, 3, 5, 15, 30)
TURNS = 2.5
INNER_RADIUS = 0.08
# Rows of T whose directions differ by less than some 1e-6 radians count as one: behind them rounding would be solved.
LEAST_DETERMINANT = 1e-12

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Embedding:
    """Points, and what comes back of them through n dimensions and ReLU.

    Attributes:
        points: ``(P, 2)``.
        matrix: T, ``(n, 2)``.
        active: ``(P, n)``, which channels of each point are positive.
        restored: ``(P, 2)``, the pseudo-inverse of T applied to the channels.
    """

    points: Floats
    matrix: Floats
    active: Flags
    restored: Floats

    @property
    def lost(self) -> Flags:
        """Which points have no active channel, so that nothing but zero is left of them; ``(P,)``."""
        lost: Flags = self.active.sum(axis=1) == 0
        return lost

    @property
    def recoverable(self) -> Flags:
        """Which points have two active channels whose rows of T are independent; ``(P,)``.

        There ReLU is invertible: the active channels are linear equations that have the point as their one solution.
        """
        x, y = self.matrix.T
        # The Gram matrix of a point's active rows is singular exactly where no two of them are independent.
        xx, xy, yy = (self.active @ products for products in (x * x, x * y, y * y))
        recoverable: Flags = xx * yy - xy**2 > LEAST_DETERMINANT * (xx + yy) ** 2
        return recoverable

    @property
    def error(self) -> float:
        """RMS distance of the restored points from the points, relative to the RMS of the points.

        It tends to 1/2 with n, not to 0: relu(z) is (z + abs(z)) / 2, of which the first half comes back as half the
        point, and the second, being the same for a point and its mirror image, cancels out over many rows of T.
        """
        return _relative_error(self.points, self.restored)

    @property
    def fitted_error(self) -> float:
        """The same after the 2 x 2 matrix that brings the restored points nearest to the points; in 0..1.

        It takes out the factor of 1/2, and most of what a nearly singular T blows up. A value of 0 says that the
        restored points are a linear image of the points, 1 that they say nothing linear about them. It tends to 0.
        """
        fit = np.linalg.lstsq(self.restored, self.points)[0]
        return _relative_error(self.points, self.restored @ fit)


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over several seeds: its mean, its standard deviation from one seed to another, and its median."""

    mean: float
    deviation: float
    median: float


@dataclass(frozen=True, slots=True)
class Survival:
    """What of the spiral survives in n dimensions, over many random T.

    Attributes:
        dimensions: n.
        lost: Share of points without an active channel, in 0..1; 2^-n is expected.
        recoverable: Share of points that their active channels determine, in 0..1; 1 - (n + 1) 2^-n is expected.
        error: Of the plain projection back, see :attr:`Embedding.error`. For n = 2 some T are nearly singular, and
            their errors so large that the mean has no limit as seeds are added; the median has.
        fitted_error: After the best linear map, see :attr:`Embedding.fitted_error`; the one to compare n by.
    """

    dimensions: int
    lost: Spread
    recoverable: Spread
    error: Spread
    fitted_error: Spread


def spiral(count: int = 1000) -> Floats:
    """Returns ``(count, 2)`` points along two and a half turns around the origin, at even steps, radius up to 1."""
    # The arc of an Archimedean spiral grows as the square of its radius.
    radius = np.sqrt(np.linspace(INNER_RADIUS**2, 1, count))
    angle = 2 * np.pi * TURNS * radius
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def embed(points: Floats, dimensions: int, seed: int) -> Embedding:
    """Carries points into more dimensions by a random T, cuts off by ReLU, and projects back.

    Args:
        points: ``(P, 2)``.
        dimensions: n, at least 2.
        seed: Of T, whose entries are N(0, 1). For one seed, T of fewer dimensions is the top of T of more.

    Raises:
        UserError: There are too few dimensions to hold a plane.
    """
    if dimensions < 2:
        raise UserError(f"A plane is embedded in 2 dimensions or more, got {dimensions}.")
    matrix = np.random.default_rng(seed).standard_normal((dimensions, 2))
    channels = np.maximum(points @ matrix.T, 0)
    return Embedding(points, matrix, active=channels > 0, restored=channels @ np.linalg.pinv(matrix).T)


def experiment(seeds: int = 100) -> tuple[Survival, ...]:
    """Embeds the spiral in each of the paper's numbers of dimensions, by the matrices of seeds 0 to ``seeds - 1``.

    Raises:
        UserError: There are too few seeds to measure a spread.
    """
    if seeds < 2:
        raise UserError(f"The spread needs at least 2 seeds, got {seeds}.")
    points = spiral()
    measured = []
    for dimensions in DIMENSIONS:
        embeddings = [embed(points, dimensions, seed) for seed in range(seeds)]
        measured.append(
            Survival(
                dimensions,
                lost=_spread([embedding.lost.mean() for embedding in embeddings]),
                recoverable=_spread([embedding.recoverable.mean() for embedding in embeddings]),
                error=_spread([embedding.error for embedding in embeddings]),
                fitted_error=_spread([embedding.fitted_error for embedding in embeddings]),
            )
        )
    return tuple(measured)


def _relative_error(points: Floats, restored: Floats) -> float:
    return float(np.linalg.norm(restored - points) / np.linalg.norm(points))


def _spread(values: list[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)), float(np.median(values)))
