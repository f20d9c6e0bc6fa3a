"""Prevalence of hemorrhages: which subtypes patients have, so that the requested shares of slices are positive.

A study has one of the 32 combinations of the five subtypes. Their probabilities are the ones nearest to how hemorrhages
come together in reality (least relative entropy) that give the wanted per-slice shares. Nothing here draws a picture.
"""

from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import fmin_l_bfgs_b

from ichx.errors import InvalidInputError, did_you_mean, raise_problems
from ichx.labels import LABELS, SUBTYPES

CHALLENGE_PREVALENCE: Mapping[str, float] = MappingProxyType(
    {
        "epidural": 3145 / 752803,
        "intraparenchymal": 36118 / 752803,
        "intraventricular": 26205 / 752803,
        "subarachnoid": 35675 / 752803,
        "subdural": 47166 / 752803,
        "any": 107933 / 752803,
    }
)
"""Share of positive slices per label in the training data of the RSNA 2019 challenge."""

COMBINATIONS = tuple(product((0, 1), repeat=len(SUBTYPES)))
"""Presence of the five subtypes in a study, in the order of `SUBTYPES`."""

EXPECTED_SHARES: Mapping[str, float] = MappingProxyType(
    {"epidural": 0.30, "intraparenchymal": 0.175, "intraventricular": 0.235, "subarachnoid": 0.295, "subdural": 0.405}
)
"""Mean share of a study's slices that show a subtype when the study has it; measured on the phantom."""

OVERLAP = 0.47
"""How much subtypes share slices: 0 were independent, 1 the most widespread one alone makes `any`."""

# Studies by combination, rounded per mille, of the challenge's order of magnitude; unnamed ones get a trace.
_REALISTIC = {
    "": 600, "S": 65, "P": 58, "PV": 40, "PVA": 35, "V": 30, "PVAS": 25, "PAS": 24, "VA": 21, "A": 20, "PA": 19,
    "PS": 16, "AS": 10, "VAS": 8, "PVS": 7, "EPAS": 5, "ES": 3, "EPA": 3, "VS": 2, "EPVAS": 2, "EP": 2, "EAS": 2,
    "E": 3, "EPV": 1, "EPVA": 1, "EPS": 1, "EA": 1,
}  # fmt: skip
_LETTERS = "EPVAS"


def draw_subtypes(rng: np.random.Generator, prevalence: Mapping[str, float] | None) -> tuple[str, ...]:
    """Return the subtypes of one study, for per-slice shares by label name (the challenge's when None).

    Raises `InvalidInputError` for unknown names, shares outside 0..1, and shares that are impossible together.
    """
    chances = combination_chances(tuple(sorted((CHALLENGE_PREVALENCE if prevalence is None else prevalence).items())))
    present = COMBINATIONS[int(rng.choice(len(COMBINATIONS), p=chances))]
    return tuple(name for name, there in zip(SUBTYPES, present, strict=True) if there)


@lru_cache(maxsize=64)
def combination_chances(prevalence: tuple[tuple[str, float], ...]) -> NDArray[np.float64]:
    """Return `(32,)` probabilities of `COMBINATIONS` that give the per-slice shares `(label, share), ...`.

    Other labels follow from how labels occur together in reality. Raises `InvalidInputError` like `draw_subtypes`.
    """
    unknown = [name for name, _ in prevalence if name not in LABELS]
    problems = [f"Unknown label {name!r}. {did_you_mean(name, LABELS)}".strip() for name in unknown]
    problems += [f"Invalid share of {name}: {share!r}." for name, share in prevalence if not 0 <= share <= 1]
    raise_problems(problems, f"Use per-slice shares between 0 and 1 for labels among {', '.join(LABELS)}.")
    base = _tilted(_base_chances(), tuple(CHALLENGE_PREVALENCE.items()))
    if base is None:
        raise AssertionError("the phantom cannot have the challenge's prevalences")
    chances: NDArray[np.float64] | None = _tilted(base, prevalence)
    if chances is None:
        requested = ", ".join(f"{name} {share:.3g}" for name, share in prevalence)
        most = ", ".join(f"{name} {share:.2f}" for name, share in EXPECTED_SHARES.items())
        raise InvalidInputError(
            f"These shares of positive slices are impossible together: {requested}.",
            f"Keep each below the share in a study with that hemorrhage ({most}), and 'any' between the largest and "
            "the sum.",
        )
    return chances


def slice_shares() -> NDArray[np.float64]:
    """Return `(32, 6)`: the expected share of positive slices per combination and label."""
    present = np.array(COMBINATIONS, float) * [EXPECTED_SHARES[name] for name in SUBTYPES]
    independent = 1 - np.prod(1 - present, axis=1)
    either = OVERLAP * present.max(axis=1) + (1 - OVERLAP) * independent
    return np.column_stack([present, either])


def _base_chances() -> NDArray[np.float64]:
    keys = ["".join(letter for letter, there in zip(_LETTERS, c, strict=True) if there) for c in COMBINATIONS]
    weights = np.array([_REALISTIC.get(key, 0.3) for key in keys], float)
    chances: NDArray[np.float64] = weights / weights.sum()
    return chances


def _tilted(base: NDArray[np.float64], wanted: tuple[tuple[str, float], ...]) -> NDArray[np.float64] | None:
    """Return the distribution nearest to `base` with the requested shares, or None."""
    shares = slice_shares()
    barred = np.zeros(len(base), bool)
    for name, share in wanted:
        if share == 0:
            barred |= shares[:, LABELS.index(name)] > 0
    start = np.where(barred, 0, base)
    columns = [LABELS.index(name) for name, share in wanted if share > 0]
    target = np.array([share for _, share in wanted if share > 0])
    features = shares[:, columns]

    def dual(tilt: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        exponent = features @ tilt
        top = exponent.max()
        weights = start * np.exp(exponent - top)
        chances = weights / weights.sum()
        return float(top + np.log(weights.sum()) - tilt @ target), features.T @ chances - target

    if columns:
        bounds = [(-300.0, 300.0)] * len(columns)  # beyond these a combination is practically excluded
        solved = fmin_l_bfgs_b(dual, np.zeros(len(columns)), bounds=bounds, factr=10, pgtol=1e-9)
        exponent = features @ np.asarray(solved[0])
        start = start * np.exp(exponent - exponent.max())
    chances: NDArray[np.float64] = start / start.sum()
    return chances if np.allclose(features.T @ chances, target, rtol=0.01, atol=1e-5) else None
