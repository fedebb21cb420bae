"""From judged pairs to probabilities and thresholds: the statistics, against scikit-learn, scipy and known truths."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, log_loss

from memrerank import CalibrationError, InputError, Threshold
from memrerank.calibration import Calibration
from memrerank.promise import Promise, make_promise, parse_promise
from memrerank_calibration import fit as fit_module
from memrerank_calibration import metrics
from memrerank_calibration.calibrate import calibration_of
from memrerank_calibration.fit import fit, fit_curve
from memrerank_calibration.isotonic import centred_isotonic
from memrerank_calibration.logistic import fit_logistic
from memrerank_calibration.metrics import measure, reliability, smooth_calibration_error
from memrerank_calibration.operating_points import operating_points, share
from memrerank_calibration.sample import Sample, make_sample
from memrerank_calibration.validation import cross_validate

Array = NDArray[np.float64]


def truth(logits: Array) -> Array:
    """A calibration that no logistic curve has: it flattens in the middle."""
    return 0.02 + 0.4 * expit(3 * (logits + 2)) + 0.5 * expit(2 * (logits - 2))


def drawn(pairs: int, seed: int = 0, queries: int | None = None) -> Sample:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2.5, pairs)
    labels = (rng.random(pairs) < truth(logits)).astype(float)
    return make_sample(logits, labels, queries=np.arange(pairs) % (queries or pairs))


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """Intervals of figures from fewer draws than in use, which is quicker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 40)
        yield


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibration_of(drawn(6000, queries=1500), "sha256:0", {"file": "pairs.jsonl", "sha256": ""})[0]


# The fit


def test_the_curve_is_isotonic_regression_between_the_ends() -> None:
    sample = drawn(3000)
    reference = IsotonicRegression(out_of_bounds="clip").fit(sample.logits, sample.labels)
    centres, values = centred_isotonic(sample)
    inner = slice(2, -2)
    assert len(centres) > 20
    np.testing.assert_allclose(values[inner], reference.predict(centres)[inner], atol=1e-9)


@pytest.mark.parametrize("pairs", [70, 200, 3000])
@pytest.mark.parametrize("seed", range(2))
def test_the_curve_rises_strictly_and_stays_between_0_and_1(pairs: int, seed: int) -> None:
    sample = drawn(pairs, seed)
    _, curve = fit_curve(sample)
    assert (np.diff(curve.logits) > 0).all()
    assert (np.diff(curve.probabilities) > 0).all()
    assert curve.logits[0] == sample.logits.min()
    assert curve.logits[-1] == sample.logits.max()
    assert min(curve.low) > 0
    assert max(curve.high) < 1
    assert (np.array(curve.low) <= curve.probabilities).all()
    assert (np.array(curve.high) >= curve.probabilities).all()


def test_an_end_without_the_other_label_gets_half_a_pair_of_it() -> None:
    sample = make_sample([*range(50), *range(100, 150)], [0] * 50 + [1] * 50)
    _, values = centred_isotonic(sample)
    np.testing.assert_allclose(values, [0.5 / 51, 50.5 / 51])


def test_the_curve_finds_a_known_truth() -> None:
    logits = np.linspace(-6, 5, 100)
    found = fit(drawn(40_000)).predict(logits)
    assert np.abs(found - truth(logits)).max() < 0.04
    sigmoid_error = np.abs(expit(logits) - truth(logits)).max()
    assert sigmoid_error > 0.2


def test_intervals_hold_the_truth_mostly() -> None:
    logits = np.linspace(-5, 4, 30)
    held = []
    for seed in range(10):
        curve = fit_curve(drawn(2000, seed))[1]
        low, high = (np.interp(logits, curve.logits, values) for values in (curve.low, curve.high))
        held.append(((low <= truth(logits)) & (truth(logits) <= high)).mean())
    assert 0.85 < np.mean(held) < 1


def test_intervals_are_wider_where_pairs_come_in_queries_that_are_alike() -> None:
    one = drawn(800)
    copies = Sample(*(np.repeat(values, 5) for values in (one.logits, one.labels, one.weights, one.queries)))
    alone = Sample(copies.logits, copies.labels, copies.weights, np.arange(len(copies.logits)))
    widths = [np.subtract(curve.high, curve.low).mean() for curve in (fit_curve(copies)[1], fit_curve(alone)[1])]
    assert widths[0] > 1.5 * widths[1]


def test_the_interval_of_one_query_comes_from_its_pairs() -> None:
    curve = fit_curve(drawn(400, queries=1))[1]
    assert np.subtract(curve.high, curve.low).mean() > 0.05


def test_soft_labels_and_weights_count_as_so_many_pairs() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=60)
    tenths = rng.binomial(10, expit(logits))
    soft = Sample(logits, tenths / 10, np.full(60, 10.0), np.arange(60))
    labels = np.concatenate([[1.0] * n + [0.0] * (10 - n) for n in tenths])
    hard = Sample(np.repeat(logits, 10), labels, np.ones(600), np.repeat(np.arange(60), 10))
    for found, expected in zip(centred_isotonic(soft), centred_isotonic(hard), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(fit_logistic(soft)(logits), fit_logistic(hard)(logits), atol=1e-3)


def test_few_labels_get_two_parameters() -> None:
    sample = drawn(60)
    assert min(sample.positives, sample.negatives) < fit_module.FEW
    assert fit(sample).method == "logistic"
    assert fit(drawn(600)).method == "centred isotonic"


def test_the_logistic_curve_is_that_of_scikit_learn() -> None:
    from sklearn.calibration import _sigmoid_calibration  # Platt's method, with his smoothed targets

    sample = drawn(50)
    slope, intercept = _sigmoid_calibration(sample.logits, sample.labels)
    expected = expit(-(slope * sample.logits + intercept))
    np.testing.assert_allclose(fit_logistic(sample)(sample.logits), expected, atol=1e-3)


def test_the_logistic_curve_is_the_most_likely_where_labels_are_rare() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(-6, 1.5, 20_000)
    sample = make_sample(logits, rng.random(20_000) < 0.3 * expit(1.7 * logits - 4 + 6))
    assert 5 < sample.positives < 100
    found = fit_logistic(sample)
    targets = np.where(sample.labels, 1 - 1 / (sample.positives + 2), 1 / (sample.negatives + 2))

    def loss(line: Array) -> float:
        odds = line[0] * logits + line[1]
        return -float(targets @ log_expit(odds) + (1 - targets) @ log_expit(-odds))

    best = minimize(loss, [1.0, -3.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 2000}).x
    assert (found.slope, found.intercept) == pytest.approx(best, abs=1e-3)


def test_separable_labels_give_no_certainty() -> None:
    found = fit(make_sample([-3, -2, -1, 1, 2, 3], [0, 0, 0, 1, 1, 1])).predict(np.array([-1e6, 0, 1e6]))
    assert found == pytest.approx([1 / 5, 0.5, 4 / 5])


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_alone_is_refused(label: int) -> None:
    with pytest.raises(CalibrationError, match=f"All 3 pairs have the label {label}; relevant and irrelevant"):
        fit(make_sample([1, 2, 3], [label] * 3))


def test_inverted_labels_are_refused() -> None:
    sample = drawn(500)
    with pytest.raises(CalibrationError, match=r"do not rise with the scores.*inverted"):
        fit(make_sample(sample.logits, 1 - sample.labels))


def test_pairs_without_weight_do_not_count() -> None:
    sample = drawn(500)
    logits, labels = np.append(sample.logits, 50), np.append(sample.labels, 0)
    weighted = make_sample(logits, labels, np.append(np.ones(500), 0))
    assert fit_curve(weighted)[1] == fit_curve(make_sample(sample.logits, sample.labels))[1]


# Figures


def test_the_figures_are_those_of_scikit_learn() -> None:
    sample = drawn(2000)
    probabilities = expit(sample.logits)
    found = measure(probabilities, sample)
    assert found["brier"] == pytest.approx(brier_score_loss(sample.labels, probabilities))
    assert found["log_loss"] == pytest.approx(log_loss(sample.labels, probabilities))
    parts = found["miscalibration"] - found["discrimination"] + found["uncertainty"]
    assert found["brier"] == pytest.approx(parts)
    assert found["uncertainty"] == pytest.approx(sample.base_rate * (1 - sample.base_rate))
    assert min(found.values()) > 0
    share_true, mean = calibration_curve(sample.labels, probabilities, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(
        reliability(probabilities, sample, 10)[:, :2], np.stack([mean, share_true], 1), atol=1e-9
    )


def test_probabilities_that_are_nearly_one_are_measured() -> None:
    logits = np.concatenate([np.linspace(-5, 5, 160), [36.0, 36.5, 37.2]])
    sample = make_sample(logits, logits > 0)
    assert np.isfinite(list(measure(expit(logits), sample).values())).all()


def test_the_calibration_error_is_the_distance_from_the_truth() -> None:
    sample = drawn(20_000)
    assert smooth_calibration_error(truth(sample.logits), sample) < 0.015
    shifted = truth(sample.logits) + 0.06
    assert smooth_calibration_error(shifted, sample) == pytest.approx(0.06, abs=0.015)


def test_weights_count_in_the_calibration_error() -> None:
    sample = drawn(20_000)
    relevant = make_sample(sample.logits, sample.labels, 1 + 3 * sample.labels)
    assert smooth_calibration_error(truth(sample.logits), relevant) > 0.1


def test_cross_validation_sees_what_the_fit_did_not() -> None:
    rng = np.random.default_rng(0)
    noise = make_sample(rng.normal(size=400), rng.random(400) < 0.3, queries=np.arange(400) // 4)
    noise = make_sample(noise.logits + 0.3 * noise.labels, noise.labels, queries=noise.queries)
    validation = cross_validate(noise)
    assert validation is not None
    inside = measure(fit(noise).predict(noise.logits), noise)["log_loss"]
    assert validation.figures["calibrated"]["log_loss"] > inside
    low, high = validation.figures["calibrated"]["intervals"]["log_loss"]
    assert low < validation.figures["calibrated"]["log_loss"] < high


def test_cross_validation_needs_two_queries() -> None:
    sample = drawn(100, queries=1)
    assert cross_validate(sample) is None
    found, validation = calibration_of(sample, "sha256:0", {})
    assert (found.metrics, validation) == ({}, None)


def test_calibration_beats_the_sigmoid_and_the_base_rate_and_says_so() -> None:
    validation = cross_validate(drawn(3000))
    assert validation is not None
    for name in ("sigmoid", "base rate"):
        for figure in ("brier", "log_loss"):
            assert validation.figures[name][figure] > validation.figures["calibrated"][figure]
            assert validation.figures[name]["intervals"][f"{figure}_minus_calibrated"][0] > 0


# Base rates


def test_another_base_rate_is_bayes_rule(calibration: Calibration) -> None:
    """The same curve as from data in which irrelevant pairs are ten times as many."""
    sample = drawn(6000, queries=1500)
    weights = np.where(sample.labels > 0, 1.0, 10.0)
    refitted = fit(make_sample(sample.logits, sample.labels, weights))
    base_rate = make_sample(sample.logits, sample.labels, weights).base_rate
    logits = np.linspace(-5, 4, 50)
    np.testing.assert_allclose(calibration.probability(logits, base_rate), refitted.predict(logits), atol=0.02)
    np.testing.assert_allclose(calibration.probability(logits, calibration.base_rate), calibration.probability(logits))


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_the_base_rate_is_estimated_from_unlabelled_scores(calibration: Calibration, rate: float) -> None:
    sample = drawn(60_000, seed=1)
    rng = np.random.default_rng(0)
    relevant = rng.choice(sample.logits[sample.labels > 0], int(20_000 * rate))
    irrelevant = rng.choice(sample.logits[sample.labels == 0], 20_000 - len(relevant))
    found = calibration.estimate_base_rate(np.concatenate([relevant, irrelevant]))
    assert found == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize("base_rate", [0, 1, -0.1, 2, float("nan"), "0.1"])
def test_a_base_rate_that_is_none_is_refused(calibration: Calibration, base_rate: float) -> None:
    with pytest.raises(InputError, match=r"base_rate is .*between 0 and 1"):
        calibration.probability([0.0], base_rate)


# Thresholds


def test_shares_have_the_limits_of_clopper_and_pearson() -> None:
    rng = np.random.default_rng(0)
    part = (rng.random(400) < 0.8).astype(float)
    found = share(part, np.ones(400), np.arange(400))
    exact = binomtest(int(part.sum()), 400).proportion_ci(0.95, method="exact")
    assert found.value == part.mean()
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.001)


def test_pairs_of_one_query_that_are_alike_count_once() -> None:
    rng = np.random.default_rng(0)
    part = np.repeat((rng.random(400) < 0.8).astype(float), 6)
    together = share(part, np.ones(2400), np.repeat(np.arange(400), 6))
    apart = share(part[::6], np.ones(400), np.arange(400))
    assert (together.low, together.high) == pytest.approx((apart.low, apart.high), abs=0.001)


def test_the_limits_of_few_queries_hold_nearly_as_often_as_they_say() -> None:
    """Five queries of ten pairs that are alike: without regard to how few they are, 9% of the limits are too high."""
    rng = np.random.default_rng(0)
    queries = np.repeat(np.arange(5), 10)
    shares = rng.beta(0.8 * 7 / 3, 0.2 * 7 / 3, (1000, 5))  # mean .8, correlation within a query .3
    lows = [share((rng.random(50) < np.repeat(each, 10)).astype(float), np.ones(50), queries).low for each in shares]
    assert np.mean(np.array(lows) > 0.8) < 0.07


def test_a_share_without_exceptions_is_not_certain() -> None:
    found = share(np.ones(40), np.ones(40), np.arange(40))
    exact = binomtest(40, 40).proportion_ci(0.95, method="exact")
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(exact.low)


@pytest.mark.parametrize(
    ("promise", "least_kept"),
    [(Promise("precision", 0.8), 0.2), (Promise("recall", 0.9), 0.9), (Promise("false_positive_rate", 0.05), 0.2)],
    ids=str,
)
def test_a_promise_is_kept_on_new_data(promise: Promise, least_kept: float) -> None:
    new = drawn(200_000, seed=99)
    kept, recalls = 0, []
    for seed in range(40):
        points = {name: np.array(values) for name, values in vars(operating_points(drawn(3000, seed))).items()}
        found = np.flatnonzero(promise.kept_by(points))
        threshold = points["logits"][found[0] if promise.name == "recall" else found[-1]]
        selected = new.logits >= threshold
        recall = new.labels[selected].sum() / new.labels.sum()
        true = {
            "precision": new.labels[selected].mean(),
            "recall": recall,
            "false_positive_rate": (1 - new.labels)[selected].sum() / (1 - new.labels).sum(),
        }[promise.name]
        kept += true <= promise.value if promise.name == "false_positive_rate" else true >= promise.value
        recalls.append(recall)
    assert kept >= 36
    assert np.mean(recalls) > least_kept


def test_a_threshold_says_what_to_expect(calibration: Calibration) -> None:
    found = calibration.threshold(Promise("precision", 0.8))
    new = drawn(100_000, seed=5)
    kept = calibration.probability(new.logits) >= found
    assert isinstance(found, Threshold)
    assert found.precision == pytest.approx(new.labels[kept].mean(), abs=0.04)
    assert found.recall == pytest.approx(new.labels[kept].sum() / new.labels.sum(), abs=0.04)
    assert found.false_positive_rate == pytest.approx(kept[new.labels == 0].mean(), abs=0.01)
    assert vars(copy.deepcopy(found)) == vars(found)
    assert copy.copy(found) == found
    assert repr(found).startswith(f"Threshold({float(found):.4f}, precision>=0.8: precision 0.8")


def test_a_threshold_among_scores_that_no_longer_rise_says_what_it_keeps() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(3000) < 0.3
    logits = rng.normal(np.where(labels, 5, -5), 1.5)
    calibration, _ = calibration_of(make_sample(logits, labels), "sha256:0", {"file": "", "sha256": ""})
    found = calibration.threshold(make_promise(recall=0.2))
    kept = calibration.probability(logits).astype(np.float32) >= np.float32(found)
    assert found.recall == pytest.approx(kept[labels].mean(), abs=0.02)
    assert found.recall >= 0.2


def test_a_promise_at_another_base_rate_is_kept_there(calibration: Calibration) -> None:
    found = calibration.threshold(Promise("precision", 0.5), base_rate=0.1)
    new = drawn(200_000, seed=5)
    weights = np.where(new.labels > 0, 0.1 / new.base_rate, 0.9 / (1 - new.base_rate))
    kept = calibration.probability(new.logits, 0.1) >= found
    precision = (weights * new.labels)[kept].sum() / weights[kept].sum()
    assert precision > 0.5
    assert found.precision == pytest.approx(precision, abs=0.06)
    assert found > calibration.threshold(Promise("precision", 0.3), base_rate=0.1)


def test_a_promise_that_the_data_do_not_support_is_refused(calibration: Calibration) -> None:
    with pytest.raises(
        CalibrationError, match=r"precision>=0.999 cannot be promised: the best .* is 0\.\d+ \(6000 pairs"
    ):
        calibration.threshold(Promise("precision", 0.999))
    with pytest.raises(CalibrationError, match=r"false_positive_rate<=0.0001 cannot be promised"):
        calibration.threshold(Promise("false_positive_rate", 0.0001))


def test_a_threshold_is_the_loosest_that_keeps_its_promise(calibration: Calibration) -> None:
    precisions = [calibration.threshold(Promise("precision", value)) for value in (0.5, 0.7, 0.8)]
    assert precisions == sorted(precisions)
    recalls = [calibration.threshold(Promise("recall", value)) for value in (0.5, 0.8, 0.95)]
    assert recalls == sorted(recalls, reverse=True)


@pytest.mark.parametrize(
    ("text", "promise"),
    [
        ("precision>=0.9", Promise("precision", 0.9)),
        (" recall >= .95 ", Promise("recall", 0.95)),
        ("false_positive_rate<=5e-2", Promise("false_positive_rate", 0.05)),
    ],
)
def test_a_promise_is_read_from_a_text(text: str, promise: Promise) -> None:
    assert parse_promise(text) == promise
    assert parse_promise(str(promise)) == promise


@pytest.mark.parametrize(
    "text",
    ["", "0.9", "precision", "precision>0.9", "precision<=0.9", "accuracy>=0.9", "recall>=much", "precision>=1.5",
     "false_positive_rate>=0.05", "recall>=nan"],
)  # fmt: skip
def test_a_text_that_promises_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="threshold"):
        parse_promise(text)


@pytest.mark.parametrize("wanted", [{}, {"precision": 0.9, "recall": 0.9}, {"precision": None}])
def test_exactly_one_promise_is_expected(wanted: dict[str, float | None]) -> None:
    with pytest.raises(InputError, match="exactly one of precision, recall, false_positive_rate"):
        make_promise(**wanted)
