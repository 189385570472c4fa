"""The checks of a row's own process, C1 to C5 and C7: what an implementation computes, against float64 and the draw.

What each check compares, its bound and the reason stand in bounds.py.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from common.config import Precision, RunConfig
from common.experiment.weights import Weights, draw_weights
from common.proof.bounds import (
    ADAM_UPDATE,
    DOT_PRODUCT,
    GRADIENT,
    LABEL,
    LEAST_SHARE_OF_PRICE,
    LOGITS,
    LOSS,
    LOSS_OF_LOGITS,
    OPTIMIZER,
    PRICES,
    PROBABILITY,
    REPLICAS,
    ROUNDOFF,
    SCALER,
    START,
    Rule,
)
from common.proof.probe import GRADIENT_SIZES, PROBE_LOSS_SCALE, Case, Updates, gradient_sizes
from common.proof.reference import (
    ROUNDINGS,
    Evaluation,
    apply_gradients,
    binary_crossentropy,
    loss_and_gradients,
    make_state,
)
from common.results.check import Check


def compare(rule: Rule, difference: float, bound: float, what: str = "", tensor: str = "", dtype: str = "") -> Check:
    """Hold a difference to its bound; where one of them is not a finite number, it fails. The rest is as in Check."""
    known = float(difference) if math.isfinite(difference) else None
    limit = float(bound) if math.isfinite(bound) else 0.0
    return Check(rule.name, known, limit, known is not None and known <= limit, what, tensor, dtype)


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """|value - reference| / |reference|; infinite if something is not finite, or vanishes where the reference does not.

    Where both vanish it is 0.
    """
    size = float(np.linalg.norm(reference))
    if not np.isfinite(value).all() or (size > 0 and not np.any(value)):
        return math.inf
    distance = float(np.linalg.norm(value - reference))
    return distance / size if size > 0 else (math.inf if distance else 0.0)


def joined(weights: Weights, names: Iterable[str]) -> np.ndarray:
    """All entries of the named weights in one row, in float64."""
    return np.concatenate([weights[name].astype(np.float64).ravel() for name in names])


def rounds(precision: Precision) -> bool:
    """Whether the precision rounds what float32 holds, so that bounds are multiples of the price."""
    return precision not in (Precision.FLOAT64, Precision.FLOAT32)


def gradient_bounds(config: RunConfig, case: Case, reference: Evaluation, emulated: Evaluation) -> dict[str, float]:
    """C2's bound on the gradient of each weight in the case."""
    price = {n: relative_error(emulated.gradients[n], gradient) for n, gradient in reference.gradients.items()}
    usual = float(np.median(list(price.values())))
    u, slope, inputs = ROUNDOFF[config.precision], _slope(reference, case), len(case.weights["dense/kernel"])
    pixels = len(case.images) * inputs // len(case.weights["conv1/bias"])
    fan_in = max(math.prod(array.shape[:-1]) for array in case.weights.values() if array.ndim == 4)
    if rounds(config.precision):
        return {name: PRICES * max(error, usual, u / 2, slope * u / 4) for name, error in price.items()}
    terms = math.sqrt(pixels + fan_in) + slope * math.sqrt(inputs)
    return {name: DOT_PRODUCT * u * _cancellation(reference, case, name) * terms for name in price}


def check_held(rule: Rule, precision: Precision, what: str, actual: Weights, loss_scale: float) -> list[Check]:
    """Whether the 16-bit type holds the scaled gradient of each convolution kernel, as it must where it was computed.

    Not the biases': a fused kernel may sum them in float32 and store that.
    """
    if precision.compute_dtype == precision.variable_dtype:
        return []
    rounding = ROUNDINGS[precision]
    kernels = {name: loss_scale * array for name, array in actual.items() if array.ndim == 4}
    return [
        compare(
            rule,
            int(np.count_nonzero(rounding(scaled) != scaled)),
            0,
            what,
            name,
            precision.compute_dtype,
        )
        for name, scaled in kernels.items()
    ]


def check_gradients(
    rule: Rule, what: str, actual: Weights, reference: Weights, bounds: dict[str, float]
) -> list[Check]:
    """Compare the gradient of each weight; `what` says on which data."""
    return [
        compare(rule, relative_error(actual[name], reference[name]), bound, what, name)
        for name, bound in bounds.items()
    ]


def check_case(config: RunConfig, case: Case, loss_scale: float, actual: Evaluation) -> list[Check]:
    """C1 to C3 on one probe case; loss_scale is the scale that the gradients went through."""
    precision = config.precision
    reference = loss_and_gradients(case.weights, case.images, case.labels)
    emulated = loss_and_gradients(case.weights, case.images, case.labels, ROUNDINGS[precision], loss_scale)
    slope, inputs = _slope(reference, case), len(case.weights["dense/kernel"])

    error = relative_error(actual.logits, reference.logits)
    price = relative_error(emulated.logits, reference.logits)
    bound = PRICES * price if rounds(precision) else DOT_PRODUCT * ROUNDOFF[precision] * math.sqrt(inputs)
    checks = [compare(LOGITS, error, bound, case.name)]
    if precision.compute_dtype not in ("float64", "float32"):
        unheld = int(np.count_nonzero(ROUNDINGS[precision](actual.logits) != actual.logits))
        checks.append(compare(LABEL, price / error if error else math.inf, 1 / LEAST_SHARE_OF_PRICE, case.name))
        checks.append(compare(LABEL, unheld, 0, f"{case.name}, logits", dtype=precision.compute_dtype))
        checks += check_held(LABEL, precision, case.name, actual.gradients, loss_scale)

    bounds = gradient_bounds(config, case, reference, emulated)
    checks += check_gradients(GRADIENT, case.name, actual.gradients, reference.gradients, bounds)
    loss_u = ROUNDOFF[Precision(precision.variable_dtype)]
    loss_error = relative_error(np.array(actual.loss), np.array(binary_crossentropy(case.labels, actual.logits)))
    return [*checks, compare(LOSS_OF_LOGITS, loss_error, LOSS * loss_u * (2 + slope), case.name)]


def check_probabilities(config: RunConfig, case: Case, logits: np.ndarray, probabilities: np.ndarray) -> Check:
    """C1 on what the model returns; logits and probabilities (B, 1) come from the same kind of pass."""
    slope, u = float(np.max(np.abs(logits))), ROUNDOFF[Precision(config.precision.variable_dtype)]
    expected = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
    return compare(PROBABILITY, relative_error(probabilities, expected), LOSS * u * (2 + slope), case.name)


def check_updates(config: RunConfig, start: Weights, gradients: Sequence[Weights], actual: Updates) -> list[Check]:
    """C4 and C5: what the optimizer made of the gradients, which it was given one after the other."""
    scaled = config.precision.scales_loss
    state = make_state(start, PROBE_LOSS_SCALE, config.precision)
    scales, applied = [], []
    for step in gradients:
        scales.append(state.loss_scale)
        apply_gradients(state, step, config.train, PROBE_LOSS_SCALE if scaled else None)
        applied.append(state.applied_steps)
    checks = [
        compare(SCALER, _mismatches(actual.loss_scale, scales), 0, "loss scale"),
        compare(SCALER, _mismatches(actual.applied_steps, applied), 0, "updates so far"),
    ]
    sizes = np.concatenate([gradient_sizes(array.shape).ravel() for array in start.values()])
    change, expected = (joined(weights, start) - joined(start, start) for weights in (actual.weights, state.weights))
    for size in GRADIENT_SIZES:
        error = relative_error(change[sizes == size], expected[sizes == size])
        checks.append(compare(OPTIMIZER, error, ADAM_UPDATE, f"gradients of {size:g}"))
    return checks


def check_start(
    config: RunConfig, drawn_sha256: str, data_sha256: str, exported: Weights, loss_scale: float
) -> list[Check]:
    """C7: the data as read back from the device, the weights before the first step, their dtypes, the first scale.

    drawn_sha256: of the data drawn for this alone, before the memory that a row takes was first read.
    """
    drawn = draw_weights(config.model, config.data.seed)
    differing = sum(not np.array_equal(exported[name], array) for name, array in drawn.items())
    dtypes = sum(array.dtype.name != config.precision.variable_dtype for array in exported.values())
    scale = config.loss_scale.initial_scale if config.precision.scales_loss else 1.0
    return [
        compare(START, int(data_sha256 != drawn_sha256), 0, "data on the device"),
        compare(START, differing, 0, "starting weights"),
        compare(START, dtypes, 0, "weights", dtype=config.precision.variable_dtype),
        compare(START, abs(loss_scale - scale), 0, "first loss scale"),
    ]


def _slope(reference: Evaluation, case: Case) -> float:
    """By what factor sigmoid(z) - y passes on a relative error of z, at most: |z| (1 - |sigmoid(z) - y|)."""
    wrongness = np.where(case.labels > 0, -reference.logits, reference.logits)  # large where confidently wrong
    return float(np.max(np.abs(reference.logits) * np.exp(-np.logaddexp(0, wrongness))))


def _cancellation(reference: Evaluation, case: Case, name: str) -> float:
    """By what factor the samples' terms of a gradient are larger than their sum, at least 1.

    A sample's term is sigmoid(z) - y times something that is alike for all, but for the images that the probe mirrors.
    """
    terms = np.exp(-np.logaddexp(0, -reference.logits)) - case.labels
    if name.endswith("kernel"):
        terms = terms * np.sign(case.images.sum(axis=(1, 2, 3))).reshape(-1, 1)
    return float(np.abs(terms).sum() / np.abs(terms.sum()))


def _mismatches(actual: Sequence[float], expected: Sequence[float]) -> int:
    return int(np.count_nonzero(np.array(actual) != np.array(expected)))


def check_replicas(fingerprints: Sequence[int]) -> list[Check]:
    """C7 at the end of a run of several: the weights of every replica are those of the first, bit for bit."""
    differing = [rank for rank, fingerprint in enumerate(fingerprints) if fingerprint != fingerprints[0]]
    where = f"final weights of rank {', '.join(map(str, differing))}" if differing else "final weights"
    return [compare(REPLICAS, len(differing), 0, where)] if len(fingerprints) > 1 else []
