"""Every check and every tolerance of the proof, each with its reason; tests/tolerances.py has those of tests alone.

The rule: each framework is bounded on its own against float64 (reference.py), never by "the difference of the two is
less than their errors", which a mistake on one side would pass. Where a precision rounds to 16 bits, the bound is a
multiple of the *price* E0: the error of the emulator, which rounds exactly where Keras does and nowhere else. Rows in
16 bits are bounded from below as well, so that mixed precision that is silently off is caught too.

u is the unit roundoff; the relative error of x is |x - reference| / |reference|, norms over all entries.
"""

from dataclasses import dataclass, replace

from common.config import Precision, RunConfig

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
# right implementations.
KERAS_UPDATE = 6.4e-6

# Where roundings decide what is computed, right runs still end alike. Of the 1370 pairs of rows in results/ that train
# the same experiment, in any two precisions, none differs by more than 0.028 in the median loss of its second half, in
# units of the rms of the loss. A run that stopped learning on its way differs by 1. Shorter runs are not over by then.
# Of two right updates the larger exceeded the smaller by 0.7 at most (TF32, the article's size), and by 1.3 and more
# where one of the two stopped.
LATE_LOSS = 0.1
SHORTEST_WITH_AN_END = 40
UPDATE_SIZE = 1.0

# A natural overflow may fall on either side of 65504 by a rounding: one step in sixty, and one in a shorter run.
STEPS_TO_A_DOUBTFUL_SKIP = 60

# Whole samples are counted, so half of one is none.
HALF_A_SAMPLE = 0.5

# Of numbers that a narrower type has stored, it holds all; of others by chance 2**-13 and fewer (measured: up to 0.005
# of the few thousand of a trial).
LARGEST_SHARE_HELD = 0.1

# The mean that an epoch reports, from its own steps' losses: only the roundings of a float64 sum.
EPOCH_LOSS = 1e-12


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
    "float64 row of its framework, and E0 is that of the first gradient times what trainings in float64, from weights "
    "moved by a rounding, show of amplification",
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

LATE = Rule(
    "C6 late loss",
    "training",
    "difference of the median losses of the second half to float64's, over rms of the loss, where not every step can "
    "be compared and there are 40 or more",
    "0.1, and 3 times that of the reference's own roundings",
    "right runs that roundings have driven apart still end alike",
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
    "steps skipped although nothing overflows at 1.25 times the scale, or without a loss scale, or taken although "
    "something does at a 1.25th",
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

PAIR_LATE = Rule(
    "C8 late loss",
    "pair",
    "difference of the median losses of the second half of two rows that train the same, as C6",
    LATE.bound,
    LATE.reason,
)

PAIR_SIZE = Rule(
    "C8 update size",
    "pair",
    "the larger norm over the smaller, less 1, of the updates of two rows that train the same, where not every step "
    "can be compared and there are 40 or more",
    "1",
    LATE.reason,
)

PAIR_SKIPPED = Rule(
    "C8 skips",
    "pair",
    "difference in the number of skipped steps",
    "one in 60, and one in a shorter run",
    "whether a gradient overflows at 65504 may be decided by a rounding",
)

RUN_RULES = (FIRST_GRADIENT, RUN_LABEL, LOSS_CURVE, UPDATE, LATE, ACCURACY, EPOCH, SCALE_TRACE, SKIPPED)

# C9: the rules of the run, on a small run along the row's own path.
TRIAL_RULES = {
    rule.name: replace(rule, name=rule.name.replace("C6", "C9"), compares=f"as {rule.name}, of the trial")
    for rule in (LOSS_CURVE, UPDATE, ACCURACY, EPOCH, SCALE_TRACE, SKIPPED)
}

TRIAL_MOMENTS = Rule(
    "C9 moments",
    "training",
    "relative error of Adam's second moments at the end of the trial, where every step can be compared",
    "float: 1e-4; 16 bits: 3 E0 of them, at least 1e-4",
    "they show the size of the gradients, which Adam's step does not depend on",
)

TRIAL_LABEL = Rule(
    "C9 precision",
    "logits",
    "E0 over the error of the trial's losses, update and second moments, the least of the three, where every step can "
    "be compared",
    "4",
    "a training step that computes in another precision than the probe's errs by next to nothing",
)

TRIAL_STORAGE = Rule(
    "C9 storage",
    "training",
    "share of the final weights, and of Adam's second moments, that a narrower type holds",
    "a tenth",
    "it holds all numbers that were stored in it",
)

TRIAL_EXPORT = Rule(
    "C9 export",
    "training",
    "logits of the trained model that differ, bit for bit, once the weights that it exports are loaded into it",
    "none",
    "averaged or older weights make other logits",
)

PAIR_RULES = (PAIR_GRADIENT, PAIR_LOSS, PAIR_UPDATE, PAIR_LATE, PAIR_SIZE, PAIR_SKIPPED)

RULES = (
    LOGITS, LABEL, PROBABILITY, GRADIENT, LOSS_OF_LOGITS, OPTIMIZER, SCALER,
    *RUN_RULES,
    START, PRESENCE, REPLICAS,
    *PAIR_RULES,
    *TRIAL_RULES.values(), TRIAL_MOMENTS, TRIAL_LABEL, TRIAL_STORAGE, TRIAL_EXPORT,
)  # fmt: skip


def rules_of_worker(config: RunConfig) -> list[Rule]:
    """What every row's own process has to check."""
    label = [LABEL] if config.precision.compute_dtype != config.precision.variable_dtype else []
    replicas = [REPLICAS] if config.execution.replicas > 1 else []
    trial = [TRIAL_RULES[rule.name] for rule in (LOSS_CURVE, EPOCH, SCALE_TRACE, SKIPPED)] + [
        TRIAL_STORAGE,
        TRIAL_EXPORT,
    ]
    return [LOGITS, *label, PROBABILITY, GRADIENT, LOSS_OF_LOGITS, OPTIMIZER, SCALER, START, *replicas, *trial]
