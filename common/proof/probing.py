"""What the parity checks look at: passes and updates on given inputs, by the path that the row trains with.

Written once for both frameworks: the same instrument on both sides is also the fairer one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.config import RunConfig
from common.experiment.weights import Weights, draw_weights
from common.proof.checks import check_case, check_probabilities, check_updates
from common.proof.implementation import Prober, Replicas
from common.proof.probe import (
    PROBE_LOSS_SCALE,
    PROBE_MODEL,
    Case,
    Updates,
    draw_cases,
    draw_updates,
    is_label_true,
    label_cases,
    see_precision,
)
from common.proof.reference import Evaluation
from common.results.check import Check, PrecisionProbe
from common.results.rows import Arrays


def probe(impl: Prober, config: RunConfig, device: Any) -> list[Check]:
    """Checks C1 to C5 on the small probe model, with this row's precision, compile mode and Adam."""
    cases, gradients = draw_cases(), draw_updates(config.precision)
    model = impl.build_model(PROBE_MODEL, config.precision, device)
    optimizer = impl.make_optimizer(model, config.train, PROBE_LOSS_SCALE, config.precision)
    evaluations = evaluate(impl, model, optimizer, config, impl.alone(device), cases)
    scale = float(impl.loss_scale(optimizer))
    checks = [
        check
        for case, evaluation in zip(cases, evaluations, strict=True)
        for check in check_case(config, case, scale, evaluation)
    ]
    checks += [check_probabilities(config, case, *predict(impl, model, config, device, case)) for case in cases]
    start = {name: 0 * array for name, array in cases[0].weights.items()}
    return checks + check_updates(config, start, gradients, update(impl, model, optimizer, config, start, gradients))


def evaluate(
    impl: Prober, model: Any, optimizer: Any, config: RunConfig, replicas: Replicas, cases: Sequence[Case]
) -> list[Evaluation]:
    """Loss, logits and unscaled gradients of every case, all of one shape; the model keeps the last case's weights.

    Each replica works on its block of a case.
    """
    function = impl.compiled(impl.loss_and_gradients, model, optimizer, config.execution.compile)
    scale = float(impl.loss_scale(optimizer))
    evaluations = []
    for case in cases:
        impl.load_weights(model, case.weights)
        images, labels = impl.shard(case.images, case.labels, impl.variable_dtype(config.precision), replicas)
        replicas.on_collective()
        loss, logits, gradients = function(images, labels)
        named = {name: array / scale for name, array in impl.export_gradients(model, gradients).items()}
        whole_logits = impl.to_numpy(impl.gather(logits, replicas))
        evaluations.append(Evaluation(float(impl.mean(loss, replicas)), whole_logits, named))
    return evaluations


def predict(impl: Prober, model: Any, config: RunConfig, device: Any, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities (B, 1) of the case, each by a call of its own."""
    impl.load_weights(model, case.weights)
    images, _ = impl.to_device(case.images, case.labels, device, impl.variable_dtype(config.precision))
    return impl.to_numpy(model.logits(images)), impl.to_numpy(model(images))


def update(
    impl: Prober, model: Any, optimizer: Any, config: RunConfig, start: Weights, gradients: Sequence[Weights]
) -> Updates:
    """Apply unscaled gradients one after the other, from the weights `start`."""
    impl.load_weights(model, start)
    function = impl.compiled(impl.apply_gradients, model, optimizer, config.execution.compile)
    scales, applied = [], []
    for step in gradients:
        scales.append(impl.loss_scale(optimizer))
        function([impl.scale_loss(optimizer, gradient) for gradient in impl.load_gradients(model, step)])
        applied.append(impl.applied_steps(optimizer))
    return Updates([float(scale) for scale in scales], [float(t) for t in applied], impl.export_weights(model))


def examine(
    impl: Prober,
    model: Any,
    optimizer: Any,
    config: RunConfig,
    replicas: Replicas,
    images: np.ndarray,
    labels: np.ndarray,
) -> tuple[Arrays, PrecisionProbe]:
    """Export the trained weights; then compute, on other weights, the first batch's gradients and the label's cases.

    images (N, H, W, C) and labels (N, 1), in the order of training. The model is left with weights of the probe.
    """
    final_weights = impl.export_weights(model)
    start, size = draw_weights(config.model, config.data.seed), config.train.batch_size
    cases = label_cases(config.model, size)
    first_batch = Case("first batch", start, images[:size], labels[:size])
    first, *others = evaluate(impl, model, optimizer, config, replicas, [first_batch, *cases])
    seen = see_precision(cases, [evaluation.logits for evaluation in others])
    return Arrays(first.gradients, final_weights), PrecisionProbe(is_label_true(config.precision, seen), seen)
