"""Initial values with which attention begins at the neighbours of a token.

With random numbers attention begins nearly uniform: each of T tokens is read with a weight of 1/T,
and a short run can end before any head has found the neighbours, which say most about a word. So
the table of positions begins with sinusoids, and the first layer's queries and keys with numbers
that find the position at a distance of s in it. With the rates w_j = pi 0.9^j:

    position t      p_t = sqrt(2) deviation (sin w_0 t, sin w_1 t, ..., cos w_0 t, cos w_1 t, ...)
    query of t      q_t = g (sin w_j t, cos w_j t)                              j < D/2
    key of t        k_t = g (sin w_j (t - s), cos w_j (t - s))
                        = g (sin w_j t cos w_j s - cos w_j t sin w_j s,
                             cos w_j t cos w_j s + sin w_j t sin w_j s)

both linear in p_t. The score of u for t is, where the positions have the amplitude a,

    q_t k_u / sqrt(D) = a² g² / sqrt(D)  sum_j cos w_j (t + s - u)

and is largest, a² g² sqrt(D) / 2, at u = t + s. With g² = 2 PEAK / sqrt(D) that is a² PEAK. After
the layer norm of word + position + segment, a² is about 0.8, and the neighbour gets 0.41 of the
weight in a row of 32 tokens (preset tiny) and 0.28 in one of 64 (laptop). The heads take the
distances -1, 1, -2, 2, -3, ... in turn. All these numbers are learned from the first step on, as
others are. Values and outputs of attention begin with random numbers.

Sources: sinusoids and their shift as a linear map, Vaswani et al. 2017, arXiv:1706.03762, section
3.5; initial values that make attention look at certain places, Trockman and Kolter 2023,
arXiv:2305.09828. The original has neither.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PEAK = 5.0  # score of the place that a head looks at, for positions of amplitude 1
RATIO = 0.9  # of the rates of two neighbouring pairs


def rates(count: int) -> Floats:
    """Return ``count`` angles that a position turns by, the first of them pi."""
    return np.asarray(math.pi * RATIO ** np.arange(count), np.float64)


def sinusoids(positions: int, width: int, deviation: float) -> Floats:
    """Return the table of positions (positions, width), whose root mean square is ``deviation``.

    Raises ValueError if ``width`` is odd.
    """
    if width % 2:
        raise ValueError(f"sines and cosines of one width do not fill a width of {width}")
    angles = np.arange(positions)[:, None] * rates(width // 2)
    table: Floats = math.sqrt(2.0) * deviation * np.hstack([np.sin(angles), np.cos(angles)])
    return table


def neighbour_projections(width: int, heads: int) -> Floats:
    """Return the weights (width, 2 width) that make queries and keys of ``sinusoids``.

    Raises ValueError if the heads do not divide the width into even parts.
    """
    if width % (2 * heads):
        raise ValueError(f"{heads} heads do not divide a width of {width} into even parts")
    distances = [(number // 2 + 1) * (-1) ** (number + 1) for number in range(heads)]
    queries = [_shifted(width, heads, 0)] * heads
    keys = [_shifted(width, heads, distance) for distance in distances]
    return np.hstack([*queries, *keys])


def _shifted(width: int, heads: int, distance: int) -> Floats:
    """Return the weights (width, D) of one head: of sinusoids, ``distance`` positions earlier."""
    half = width // (2 * heads)
    angles = rates(half) * distance
    sine, cosine = np.arange(half), width // 2 + np.arange(half)  # places in a row of the table
    to_sine, to_cosine = 2 * np.arange(half), 2 * np.arange(half) + 1  # places in the result
    weights = np.zeros((width, 2 * half))
    weights[sine, to_sine] = weights[cosine, to_cosine] = np.cos(angles)
    weights[cosine, to_sine] = -np.sin(angles)
    weights[sine, to_cosine] = np.sin(angles)
    gain = math.sqrt(2.0 * PEAK / math.sqrt(2 * half))
    scaled: Floats = gain * weights
    return scaled
