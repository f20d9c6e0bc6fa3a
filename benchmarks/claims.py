"""Claims of ensembles compared with the truth: nested scores, their ranking of methods, the gain of averaging networks,
the ridge of second-level models, and intervals of few patients.

python benchmarks/claims.py [--quick] [--json FILE]

Members, their networks and patients are simulated, so that fresh patients can be drawn from the same networks. Bleeds
cover adjacent slices. A member has one network per fold. Errors are shared by all members, shared by the networks of a
member, or separate; all are correlated between adjacent slices. Each network has constants, scales and confusions
between labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import numpy.typing as npt
from common import Figure, arguments, conclude

from ichx.evaluation.averaging import averaging_gain
from ichx.evaluation.blend_methods import fit_pool
from ichx.evaluation.bootstrap import mean_interval
from ichx.evaluation.choices import Method
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import LABEL_SHARES, probabilities, row_losses, score, weighted_row_losses
from ichx.evaluation.nested_score import BlendData, BlendOptions, BlendPipeline, FittedBlend
from ichx.evaluation.patient_sums import MIN_IN_CLASS, MIN_PATIENTS
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.smoothing import fit_kernels
from ichx.labels import LABELS

FloatArray = npt.NDArray[np.float64]

SLICES, FOLDS = 24, 3
PREVALENCE = (0.1, 0.3, 0.25, 0.3, 0.4)
"""Share of patients with each subtype."""
METHODS: tuple[Method, ...] = ("mean", "convex", "logit", "per-label", "per-label-logit", "stack", "auto")
PATIENTS, FRESH, UNLABELLED, SEEDS = 100, 300, 100, 3
QUICK_METHODS: tuple[Method, ...] = ("mean", "logit", "stack")


@dataclass(frozen=True)
class World:
    """What determines the predictions of simulated networks."""

    name: str
    skills: tuple[float, ...] = (1.0, 1.1, 1.2, 0.7)
    """Distance between the means of positive and negative slices of each member."""
    bias: float = 0.5
    scale: float = 0.2
    confusion: float = 0.1
    """Standard deviations of the networks' constants, log scales and confusions."""
    correlation: float = 0.6
    """Of errors of adjacent slices."""


WORLDS = (
    World("different networks", bias=2.0, scale=0.3, confusion=0.3),
    World("weak members", (0.5, 0.55, 0.6, 0.4), correlation=0.85),
    World("null members", (0.0, 0.0, 0.0, 0.0)),
)


@dataclass(frozen=True)
class Slices:
    """Slices of patients with the logits of all networks."""

    labels: FloatArray
    networks: FloatArray
    """`(members, FOLDS, N, 6)`"""
    neighbours: SeriesNeighbours
    patients: npt.NDArray[np.int64]

    def fold(self, fold: int) -> dict[int, FloatArray]:
        """Return the members' probabilities by the networks of one fold."""
        return dict(enumerate(probabilities(self.networks[:, fold])))


class Networks:
    """The networks of all members."""

    def __init__(self, random: np.random.Generator, world: World) -> None:
        self._random, self._world = random, world
        shape = (len(world.skills), FOLDS, len(LABELS))
        self._scale = 1.3 * np.exp(random.normal(0, world.scale, shape))
        self._bias = random.normal(0, world.bias, shape)
        self._confusion = random.normal(0, world.confusion, (*shape, len(LABELS)))

    def predict(self, patients: int) -> Slices:
        """Return new patients with the logits of all networks."""
        place = np.arange(SLICES)[None, :, None]
        start = self._random.integers(0, SLICES - 4, (patients, 1, 5))
        length = self._random.integers(3, 12, (patients, 1, 5)) * (self._random.random((patients, 1, 5)) < PREVALENCE)
        subtypes = ((place >= start) & (place < start + length)).astype(float)
        y = np.concatenate([subtypes, subtypes.max(axis=2, keepdims=True)], axis=2)
        error = partial(self._error, y.shape)
        shared = 0.4 * self._random.normal(size=(patients, 1, len(LABELS))) + 0.5 * error()
        z = np.empty((len(self._world.skills), FOLDS, *y.shape))
        for member, skill in enumerate(self._world.skills):
            own = shared + 0.6 * error()
            for fold in range(FOLDS):
                evidence = 1.2 * max(skill, 0.5) * (skill * (2 * y - 1) + own + 0.5 * error())
                confused = evidence @ self._confusion[member, fold]
                z[member, fold] = self._scale[member, fold] * (evidence + confused - 2.6) + self._bias[member, fold]
        who = np.repeat(np.arange(patients), SLICES)
        neighbours = SeriesNeighbours(who, np.tile(np.arange(SLICES), patients))
        return Slices(y.reshape(-1, 6), z.reshape(*z.shape[:2], -1, 6), neighbours, who)

    def _error(self, shape: tuple[int, ...]) -> FloatArray:
        """Return standard normal errors that are correlated along the second axis."""
        error, r = self._random.normal(size=shape), self._world.correlation
        for k in range(1, SLICES):
            error[:, k] = r * error[:, k - 1] + np.sqrt(1 - r**2) * error[:, k]
        return error


def blend_data(slices: Slices) -> BlendData:
    """Return the slices with out-of-fold predictions."""
    folds = slices.patients % FOLDS
    members = probabilities(slices.networks[:, folds, np.arange(len(folds))])
    return BlendData(tuple(members), slices.labels, slices.neighbours, slices.patients, folds)


def main() -> None:
    options = arguments(__doc__)
    figures = claims(options.quick)
    figures += ridges(options.quick) + coverages()
    conclude(figures, options)


@dataclass(frozen=True)
class Claim:
    """What is claimed of one method, and what fresh patients say. Losses are those of slices."""

    in_sample: float
    nested: FloatArray
    """Losses of the nested predictions, `(N,)`."""
    by_fold: FloatArray | None
    """The same, if folds are held out, as by ichx 0.1."""
    gain: float
    """Of averaging the networks, from unlabelled patients."""
    single: FloatArray
    """Losses of fresh slices, the mean over single networks."""
    mean: FloatArray
    """Losses of fresh slices, by the mean of the networks' logits."""


class Judge:
    """Judges methods on the same patients. Pools are fitted once for all methods."""

    def __init__(self, data: BlendData, fresh: Slices, unlabelled: Slices, *, by_fold: bool) -> None:
        self._pipeline, self._fresh, self._unlabelled = BlendPipeline(data, BlendOptions()), fresh, unlabelled
        self._others = {fold: BlendPipeline(without(data, fold), BlendOptions()) for fold in range(FOLDS) if by_fold}

    def claim(self, method: Method) -> Claim:
        """Return the claims of one method."""
        pipeline = self._pipeline
        pipeline.options = BlendOptions(method)
        nested, fitted = pipeline.nested(), pipeline.fit()
        assert nested is not None
        return self._judged(pipeline.apply(fitted), nested.predicted, self._by_fold(method), fitted)

    def _judged(
        self, in_sample: FloatArray, nested: FloatArray, by_fold: FloatArray | None, fitted: FittedBlend
    ) -> Claim:
        labels, fresh, unlabelled = self._pipeline.data.labels, self._fresh, self._unlabelled
        each = [fitted.apply(fresh.fold(fold), fresh.neighbours) for fold in range(FOLDS)]
        return Claim(
            score(labels, in_sample),
            weighted_row_losses(labels, nested),
            None if by_fold is None else weighted_row_losses(labels, by_fold),
            averaging_gain([fitted.apply(unlabelled.fold(fold), unlabelled.neighbours) for fold in range(FOLDS)]),
            np.mean([weighted_row_losses(fresh.labels, p) for p in each], axis=0),
            weighted_row_losses(fresh.labels, mean_of_logits(each)),
        )

    def _by_fold(self, method: Method) -> FloatArray | None:
        """Return the predictions if folds are held out: the blend is judged on networks that it never saw."""
        data = self._pipeline.data
        if not self._others:
            return None
        predicted = np.empty_like(data.labels)
        for fold, pipeline in self._others.items():
            pipeline.options = BlendOptions(method)
            held = np.flatnonzero(data.folds == fold)
            predicted[held] = pipeline.fit().apply(
                data.take(held, range(len(data.members))), data.neighbours.take(held)
            )
        return predicted


def without(data: BlendData, fold: int) -> BlendData:
    """Return the slices of the other folds."""
    rows = np.flatnonzero(data.folds != fold)
    members = tuple(p[rows] for p in data.members)
    return BlendData(members, data.labels[rows], data.neighbours.take(rows), data.patients[rows], data.folds[rows])


def mean_of_logits(parts: Sequence[FloatArray]) -> FloatArray:
    return probabilities(np.mean([logits(p) for p in parts], axis=0))


def claims(quick: bool) -> list[Figure]:
    """Return how far claims are from fresh patients, and whether they rank methods alike."""
    methods, seeds = (QUICK_METHODS, 1) if quick else (METHODS, SEEDS)
    who, whose = np.repeat(np.arange(PATIENTS), SLICES), np.repeat(np.arange(FRESH), SLICES)
    figures, inside = [], []
    for first, world in enumerate(WORLDS[:1] if quick else WORLDS):
        found: dict[Method, list[Claim]] = {method: [] for method in methods}
        for seed in range(seeds):
            networks = Networks(np.random.default_rng(10 * first + seed), world)
            data = blend_data(networks.predict(PATIENTS))
            judge = Judge(data, networks.predict(FRESH), networks.predict(UNLABELLED), by_fold=world == WORLDS[0])
            for method in methods:
                found[method].append(judge.claim(method))
                print_claim(world.name, seed, method, found[method][-1])
        for method, claimed in found.items():
            figures += claimed_scores(f"{world.name}, {method}", claimed, who, whose)
            for c in claimed:
                interval = mean_interval(c.nested, who)
                assert interval.low is not None
                assert interval.high is not None
                inside.append(interval.low <= c.single.mean() <= interval.high)
        if world == WORLDS[0]:
            figures += rankings(found, who, whose)
    share = float(np.mean(inside))
    baseline = f"{len(inside)} nested scores"
    return [*figures, Figure("fresh scores inside the 95 % interval", share, "", baseline, "0.8", share >= 0.8)]


def claimed_scores(
    what: str, claimed: Sequence[Claim], who: npt.NDArray[np.int64], whose: npt.NDArray[np.int64]
) -> Iterator[Figure]:
    """Yield the scores that are claimed for single networks and for their mean, compared with fresh patients."""
    for name, claims_of_score, true in (
        ("single networks", [c.nested.mean() for c in claimed], [c.single for c in claimed]),
        ("mean of networks", [c.nested.mean() - c.gain for c in claimed], [c.mean for c in claimed]),
    ):
        score_claimed, fresh = float(np.mean(claims_of_score)), float(np.mean([x.mean() for x in true]))
        error = float(np.hypot(standard_error(who, [c.nested for c in claimed]), standard_error(whose, true)))
        away = (score_claimed - fresh) / error
        yield Figure(
            f"{what}: claim for {name}",
            score_claimed,
            f"({away:+.1f} s.e.)",
            f"fresh: {fresh:.4f}",
            "2 s.e.",
            abs(away) <= 2,
        )


def print_claim(world: str, seed: int, method: Method, found: Claim) -> None:
    by_fold = "" if found.by_fold is None else f"by fold {found.by_fold.mean():.4f}, "
    print(
        f"{world}, seed {seed}, {method}: in-sample {found.in_sample:.4f}, {by_fold}nested {found.nested.mean():.4f}, "
        f"fresh {found.single.mean():.4f}; mean of networks {found.nested.mean() - found.gain:.4f}, "
        f"fresh {found.mean.mean():.4f}",
        flush=True,
    )


def standard_error(patients: npt.NDArray[np.int64], losses: Sequence[FloatArray]) -> float:
    """Return the standard error of the mean over seeds of the mean losses."""
    errors = [mean_interval(x, patients).standard_error or 0.0 for x in losses]
    return float(np.sqrt(np.sum(np.square(errors)))) / len(errors)


def rankings(
    found: dict[Method, list[Claim]], who: npt.NDArray[np.int64], whose: npt.NDArray[np.int64]
) -> list[Figure]:
    """Return how many pairs of methods a nested score ranks against fresh patients, beyond the standard errors."""
    wrong, wrong_by_fold, sure = 0, 0, 0
    for one, other in combinations(found, 2):
        for a, b in zip(found[one], found[other], strict=True):
            fresh = sign(a.single - b.single, whose, 2.0)
            sure += fresh != 0
            wrong += fresh * sign(a.nested - b.nested, who, 1.0) < 0
            assert a.by_fold is not None
            assert b.by_fold is not None
            wrong_by_fold += fresh * sign(a.by_fold - b.by_fold, who, 1.0) < 0
    for seed in range(len(found["stack"])):
        others = [c[seed] for method, c in found.items() if method not in ("stack", "auto")]
        stack = found["stack"][seed]
        places = [
            1 + sum(int(scored(c) < scored(stack)) for c in others)
            for scored in (lambda c: c.by_fold.mean(), lambda c: c.nested.mean(), lambda c: c.single.mean())
        ]
        print(f"seed {seed}: place of stack among {len(others) + 1} by fold, nested, fresh: {places}")
    baseline = f"{sure} pairs that differ"
    return [
        Figure("pairs of methods ranked wrongly", wrong, "", baseline, "0", wrong == 0),
        Figure("the same, folds held out", wrong_by_fold, "", baseline, "", True),
    ]


def sign(differences: FloatArray, patients: npt.NDArray[np.int64], errors: float) -> int:
    """Return the sign of a mean over patients, 0 if it is within some standard errors of 0."""
    found = mean_interval(differences, patients)
    assert found.value is not None
    assert found.standard_error is not None
    return int(np.sign(found.value)) if abs(found.value) > errors * found.standard_error else 0


def ridges(quick: bool) -> list[Figure]:
    """Return scores of stacks on fresh patients: with other ridges, and compared with smoothing."""
    figures = []
    for patients in (20, 50) if quick else (20, 50, 100):
        rows, one, smoothed = [], [], []
        for world in WORLDS[:2]:
            for seed in range(2 if quick else 8):
                networks = Networks(np.random.default_rng(100 + seed), world)
                data, fresh = blend_data(networks.predict(patients)), networks.predict(FRESH // 2)
                members = dict(enumerate(data.members))
                args = (members, data.labels, data.neighbours)
                mean = fit_pool("mean", *args)
                kernels = fit_kernels(mean.apply(members, data.neighbours), *args[1:], SLICES)
                row, patient = (fit_pool("stack", *args, ridge) for ridge in (1.0, SLICES))
                for fold in range(FOLDS):
                    p = fresh.fold(fold)
                    for scores, predicted in (
                        (rows, row.apply(p, fresh.neighbours)),
                        (one, patient.apply(p, fresh.neighbours)),
                        (smoothed, kernels.apply(mean.apply(p, fresh.neighbours), fresh.neighbours)),
                    ):
                        scores.append(score(fresh.labels, predicted))
        row, patient, smooth = float(np.mean(rows)), float(np.mean(one)), float(np.mean(smoothed))
        what = f"stack of {patients} patients"
        figures += [
            Figure(f"{what}, ridge of one patient", patient, "", f"of one row: {row:.4f}", "lower", patient <= row),
            Figure(what, patient, "", f"smoothed mean: {smooth:.4f}", "", True),
        ]
    return figures


def coverages() -> list[Figure]:
    """Return how often a 95 % interval over patients contains the score, by the number of patients.

    A rare label's loss is that of few positive patients, the more so the better the network is.
    """
    random = np.random.default_rng(0)
    slices = Networks(random, World("accurate", (2.5,), bias=0.0, scale=0.0, confusion=0.0)).predict(2_000)
    losses = (
        row_losses(slices.labels, probabilities(slices.networks[0, 0])).reshape(-1, SLICES, len(LABELS)).sum(axis=1)
    )
    has = slices.labels.reshape(-1, SLICES, len(LABELS)).max(axis=1)[:, 0] > 0
    total, rare, others = losses @ LABEL_SHARES, losses[has, 0], losses[~has, 0]
    repeats, of = 400, 300
    figures = []
    for patients in (5, 10, 20, 50):
        draws = [random.choice(total, patients) for _ in range(repeats)]
        covered = float(np.mean([covers(x, total.mean()) for x in draws]))
        figures.append(coverage_figure(f"{patients} patients", covered, patients >= MIN_PATIENTS))
    for positive in (2, 5, 10, 20):
        truth, draws = (positive * rare.mean() + (of - positive) * others.mean()) / of, []
        while len(draws) < repeats:
            count = random.binomial(of, positive / of)
            if count:
                draws.append(np.concatenate([random.choice(rare, count), random.choice(others, of - count)]))
        covered = float(np.mean([covers(x, truth) for x in draws]))
        figures.append(
            coverage_figure(f"{positive} of {of} patients have the label", covered, positive >= MIN_IN_CLASS)
        )
    return figures


def covers(sums: FloatArray, truth: float) -> bool:
    """Whether the interval of a mean over patients contains the truth."""
    draws = np.random.default_rng(1).integers(0, len(sums), (500, len(sums)))
    low, high = np.quantile(sums[draws].mean(axis=1), (0.025, 0.975))
    return bool(low <= truth <= high)


def coverage_figure(what: str, covered: float, shown: bool) -> Figure:
    """Return the coverage of an interval that is `shown`, or withheld."""
    target = "0.8" if shown else "withheld"
    return Figure(
        f"coverage of 95 %, {what}", float(covered), "", "fresh patients", target, bool(covered >= 0.8 or not shown)
    )


if __name__ == "__main__":
    main()
