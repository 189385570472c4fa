"""Every check and every tolerance of the project, each with its reason.

The rule: each framework is bounded on its own against float64 (reference.py), never by "the difference of the two is
less than their errors", which a mistake on one side would pass. Where a precision rounds to 16 bits, the bound is a
multiple of the *price* E0: the error of the emulator, which rounds exactly where Keras does and nowhere else. Rows in
16 bits are bounded from below as well, so that mixed precision that is silently off is caught too.

u is the unit roundoff; the relative error of x is |x - reference| / |reference|, norms over all entries.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from common.config import Precision, RunConfig
from common.experiment.weights import Weights, draw_weights
from common.proof.probe import GRADIENT_SIZES, PROBE_LOSS_SCALE, Case, Updates, gradient_sizes
from common.proof.reference import (
    ROUNDINGS,
    Evaluation,
    apply_gradients,
    binary_crossentropy,
    loss_and_gradients,
    make_state,
)

ROUNDOFF = {
    Precision.FLOAT64: 2.0**-53,
    Precision.FLOAT32: 2.0**-24,
    Precision.TF32: 2.0**-11,
    Precision.MIXED_FLOAT16: 2.0**-11,
    Precision.MIXED_BFLOAT16: 2.0**-8,
}

# A dot product of n rounded terms errs by about sqrt(n) u of its size; 4 leaves room for other orders of summing
# (measured: up to 0.5 for logits, 1.33 for gradients).
DOT_PRODUCT = 4.0

# What right implementations make, in results/ and in the tests' sizes on a CPU. Logits: 0.39 to 1.36 E0 in 16 bits,
# where a framework may keep a sum in float32 that Keras stores, and 0.13 to 0.6 in TF32. Gradients: those of a run's
# first batch 0.89 to 1.2 E0 in the median; each of the probe's up to 1.9 times what C2 takes 3 times of, and up to 2.6
# in one of the tests' sizes. Losses and updates: up to 1.13 E0.
PRICES = 3.0

# Mixed precision that is silently off makes 1e-4 of the price and less; the least seen where it is on is 0.39.
LEAST_SHARE_OF_PRICE = 0.25

# exp and log of float32 are good to a few u; on a confidently right sample the loss is exp(-|z|), whose relative error
# is |z| times that of z. Together 1e-6 for ordinary samples, 1e-5 at |z| = 14.
LOSS = 8.0

# Float32 Adam against its formula: Keras forms 1 - beta_2**t from a float32 beta_2, which alone puts the update
# 6.4e-6 low at t = 1; PyTorch's own error is 1.5e-6. An epsilon without Keras' bias correction makes 0.7 on gradients
# of 1e-6, and 2e-3 on those of 1e-3.
ADAM_UPDATE = 5e-5

# A whole training run in float32 or float64: rms of the loss difference over rms of the loss, between the frameworks or
# between compiled and not. Measured: 6.7e-6, of which 6.4e-6 are Keras' beta_2; a wrong epsilon makes 7e-4.
FLOAT32_TRAINING = 1e-4

# Where what a rounding has grown into reaches a tenth of the loss, the next errors no longer add up but decide what is
# computed: the price says nothing from there on.
CHAOS = 0.1

# What Keras' beta_2, rounded to float32, costs of an update, in float64 rows too: the smallest known difference of two
# right implementations, whose growth shows how a training run amplifies one.
KERAS_UPDATE = 6.4e-6

# A natural overflow may fall on either side of 65504 by a rounding: one step in sixty, and one in a shorter run.
STEPS_TO_A_DOUBTFUL_SKIP = 60

# Whole samples are counted, so half of one is none.
HALF_A_SAMPLE = 0.5

# The mean that an epoch reports, from its own steps' losses: only the roundings of a float64 sum.
EPOCH_LOSS = 1e-12

# Model.fit and our own loop call the same kernels in the same order.
FIT_AGAINST_CUSTOM_LOOP = 0.0

# Two replicas against one in float32: another order of summing, which training amplifies. Measured: 2e-6.
REPLICAS_UPDATE = 1e-5

# Not of parity: a ruler of memory reads whole pages, beside an interpreter that allocates as well.
KNOWN_ALLOCATION = 0.1

# Nor this: the memory model leaves out the workspaces of libraries and all that is small; 1.03 at most in results/h100.
FOOTPRINT = 1.04


@dataclass(frozen=True)
class Rule:
    """One check: what is compared, how far it may be off, and why so far."""

    name: str
    part: str  # the column of the parity table
    compares: str
    bound: str
    reason: str


LOGITS = Rule(
    "C1 logits",
    "logits",
    "relative error of the logits of each probe case",
    "float: 4 u sqrt(D), D inputs of the Dense layer; 16 bits: 3 E0",
    "a sum of D rounded terms; in 16 bits what the dtype itself costs",
)
LABEL = Rule(
    "C1 precision",
    "logits",
    "E0 over the logits' error, and logits and convolution kernels' gradients that the 16-bit type can't hold",
    "4, and none",
    "mixed precision that is silently off has next to no error",
)
PROBABILITY = Rule(
    "C1 probability",
    "logits",
    "relative error of the model's probabilities against the float64 sigmoid of its own logits",
    "8 u (2 + max |z|) in the loss's dtype",
    "a sigmoid in float32, whatever the layers before it compute in",
)
GRADIENT = Rule(
    "C2 gradient",
    "gradient",
    "relative error of the gradient of each weight in each probe case; infinite if it vanishes or overflows",
    "float: 4 u c (sqrt(B h w + k k C) + s sqrt(D)); 16 bits: 3 max(E0, u/2, s u/4)",
    "a sum over B h w pixels of features that are sums of k k C, and the logits' error, which exp passes on s-fold, "
    "s = max |z| (1 - |sigmoid(z) - y|); "
    "labels that balance make the sum smaller than its terms, c = sum |sigmoid(z) - y| / |sum (sigmoid(z) - y)|; of a "
    "gradient that few numbers decide the emulator's error may be small by luck, so E0 is at least the median over the "
    "tensors",
)
LOSS_OF_LOGITS = Rule(
    "C3 loss",
    "loss",
    "relative error of the loss against the float64 loss of the implementation's own logits",
    "8 u (2 + s) in the loss's dtype",
    "softplus in float32; clipping or cancelling forms miss by 1e-2 and more",
)
OPTIMIZER = Rule(
    "C4 optimizer",
    "optimizer",
    "relative error of 50 Adam updates from gradients of 1e-3, 1e-5 and 1e-6, each size on its own",
    "5e-5",
    "Keras' float32 beta_2 alone costs 6.4e-6",
)
SCALER = Rule(
    "C5 loss scale",
    "loss scale",
    "steps at which the scale, or the number of updates so far, differs, under injected infinities",
    "none",
    "powers of two and counters are exact",
)
FIRST_GRADIENT = Rule(
    "C6 first gradient",
    "gradient",
    "relative error of the gradient of each weight on the run's first batch and starting weights",
    GRADIENT.bound,
    GRADIENT.reason,
)
LOSS_CURVE = Rule(
    "C6 loss curve",
    "training",
    "rms of the difference to the reference's loss over the run, over rms of the reference's",
    "float: 1e-4; 16 bits: 3 E0 of the curve",
    "compared up to the step from which a rounding decides what is computed; a run too large for NumPy is held to a "
    "float64 row of its framework, and E0 is that of the first gradient times what the two float64 rows' growing apart "
    "shows of amplification",
)
UPDATE = Rule(
    "C6 update",
    "training",
    "relative error of the final less the starting weights, where every step can be compared",
    "float: 1e-4; 16 bits: 3 E0 of the update; always at least 1e-4 and u |w| sqrt(steps) / |update| of the weights' "
    "dtype",
    "what a rounding in each step adds up to, that of storing the weights included",
)
ACCURACY = Rule(
    "C6 accuracy",
    "training",
    "samples that the reference has on the other side, in each epoch",
    "the samples whose logit is closer to 0 than 3 E0 of its epoch, and half a sample",
    "on which side of 0 such a logit falls is decided by a rounding",
)
EPOCH = Rule(
    "C6 epoch loss",
    "training",
    "relative difference to the mean over the samples of the row's own steps",
    "1e-12",
    "a mean over batches is wrong where the last batch is smaller",
)
SCALE_TRACE = Rule(
    "C6 scale trace",
    "loss scale",
    "steps whose scale does not follow from the steps skipped before",
    "none",
    "halved after each skipped step, doubled after growth_interval others, from the initial scale",
)
SKIPPED = Rule(
    "C6 skips",
    "loss scale",
    "steps skipped although nothing overflows at 1.25 times the scale, or taken although something does at a 1.25th",
    "none",
    "a rounding decides only where a gradient is close to 65504; the reference skips what the row skipped and goes on",
)
RUN_LABEL = Rule(
    "C6 precision",
    "logits",
    "median E0 over the median error of the first gradients, and convolution kernels' that the 16-bit type can't hold",
    "4, and none",
    "a row that computes in another precision than its label, in the run or in some of its layers",
)
START = Rule(
    "C7 start",
    "start",
    "data on the device, starting weights, dtypes of the weights, first loss scale",
    "equal",
    "they are drawn once for both",
)

REPLICAS = Rule(
    "C7 replicas",
    "replicas",
    "replicas whose final weights are not those of the first, bit for bit",
    "none",
    "all apply the same sum of gradients",
)

PRESENCE = Rule(
    "C7 presence",
    "start",
    "checks that the row's process did not make",
    "none",
    "what is not compared is not proved",
)

PAIR_GRADIENT = Rule(
    "C8 first gradient",
    "pair",
    "relative difference between the gradients of two rows that train the same, on the first batch",
    "as C6",
    "never without C1 to C7, which one mistake made twice does not pass",
)
PAIR_LOSS = Rule(
    "C8 loss curve",
    "pair",
    "rms of the difference between the losses of two rows that train the same, over rms of the loss",
    LOSS_CURVE.bound,
    PAIR_GRADIENT.reason,
)
PAIR_UPDATE = Rule(
    "C8 update",
    "pair",
    "relative difference between the updates of two rows that train the same",
    UPDATE.bound,
    PAIR_GRADIENT.reason,
)
PAIR_SKIPPED = Rule(
    "C8 skips",
    "pair",
    "difference in the number of skipped steps",
    "one in 60, and one in a shorter run",
    "whether a gradient overflows at 65504 may be decided by a rounding",
)

PAIR_RULES = (PAIR_GRADIENT, PAIR_LOSS, PAIR_UPDATE, PAIR_SKIPPED)

RULES = (
    LOGITS, LABEL, PROBABILITY, GRADIENT, LOSS_OF_LOGITS, OPTIMIZER, SCALER,
    FIRST_GRADIENT, RUN_LABEL, LOSS_CURVE, UPDATE, ACCURACY, EPOCH, SCALE_TRACE, SKIPPED,
    START, PRESENCE, REPLICAS,
    *PAIR_RULES,
)  # fmt: skip


def rules_of_worker(config: RunConfig) -> list[Rule]:
    """What every row's own process has to check."""
    label = [LABEL] if config.precision.compute_dtype != config.precision.variable_dtype else []
    replicas = [REPLICAS] if config.execution.replicas > 1 else []
    return [LOGITS, *label, PROBABILITY, GRADIENT, LOSS_OF_LOGITS, OPTIMIZER, SCALER, START, *replicas]


@dataclass(frozen=True)
class Check:
    """One comparison that was made. difference is None where it was not finite. where: the tensor, case or step."""

    name: str
    difference: float | None
    bound: float
    passed: bool
    where: str

    @property
    def fraction(self) -> float:
        """difference / bound: 1 is the limit. Of a bound of 0, 0 where it holds and infinity elsewhere."""
        if self.difference is None:
            return math.inf
        if self.bound == 0:
            return math.inf if self.difference else 0.0
        return self.difference / self.bound


def compare(rule: Rule, difference: float, bound: float, where: str) -> Check:
    """Hold a difference to its bound; where one of them is not a finite number, it fails."""
    known = float(difference) if math.isfinite(difference) else None
    limit = float(bound) if math.isfinite(bound) else 0.0
    return Check(rule.name, known, limit, known is not None and known <= limit, where)


def worst_first(checks: Iterable[Check]) -> list[Check]:
    """By difference / bound; checks that failed come first in any case."""
    return sorted(checks, key=lambda check: (check.passed, -check.fraction))


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """|value - reference| / |reference|; infinite if something is not finite, or vanishes where the reference does not.

    Where both vanish it is 0.
    """
    size = float(np.linalg.norm(reference))
    if not np.isfinite(value).all() or (size > 0 and not np.any(value)):
        return math.inf
    distance = float(np.linalg.norm(value - reference))
    return distance / size if size > 0 else (math.inf if distance else 0.0)


def worst_of_each_name(checks: Iterable[Check]) -> list[Check]:
    """The worst check of each name, worst first."""
    worst: dict[str, Check] = {}
    for check in worst_first(checks):
        worst.setdefault(check.name, check)
    return list(worst.values())


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


def check_held(rule: Rule, precision: Precision, where: str, actual: Weights, loss_scale: float) -> list[Check]:
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
            f"{where}, {name} not {precision.compute_dtype}",
        )
        for name, scaled in kernels.items()
    ]


def check_gradients(
    rule: Rule, where: str, actual: Weights, reference: Weights, bounds: dict[str, float]
) -> list[Check]:
    """Compare the gradient of each weight; `where` says on which data."""
    return [
        compare(rule, relative_error(actual[name], reference[name]), bound, f"{where}, {name}")
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
        checks.append(compare(LABEL, unheld, 0, f"{case.name}, logits not {precision.compute_dtype}"))
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
        compare(START, dtypes, 0, f"weights not {config.precision.variable_dtype}"),
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
