"""What the parity checks look at: passes and updates on given inputs, by the path that the row trains with.

Written once for both frameworks: the same instrument on both sides is also the fairer one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.config import RunConfig
from common.experiment.weights import Weights, draw_weights
from common.proof.checks import check_case, check_probabilities, check_updates
from common.proof.implementation import Implementation
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


def probe(impl: Implementation, config: RunConfig, device: Any) -> list[Check]:
    """Checks C1 to C5 on the small probe model, with this row's precision, compile mode and Adam."""
    cases, gradients = draw_cases(), draw_updates(config.precision)
    model = impl.model.build_model(PROBE_MODEL, config.precision, device)
    optimizer = impl.optimizer.make_optimizer(model, config.train, PROBE_LOSS_SCALE, config.precision)
    evaluations = evaluate(impl, model, optimizer, config, impl.distributed.alone(device), cases)
    scale = float(impl.optimizer.loss_scale(optimizer))
    checks = [
        check
        for case, evaluation in zip(cases, evaluations, strict=True)
        for check in check_case(config, case, scale, evaluation)
    ]
    checks += [check_probabilities(config, case, *predict(impl, model, config, device, case)) for case in cases]
    start = {name: 0 * array for name, array in cases[0].weights.items()}
    return checks + check_updates(config, start, gradients, update(impl, model, optimizer, config, start, gradients))


def evaluate(
    impl: Implementation, model: Any, optimizer: Any, config: RunConfig, replicas: Any, cases: Sequence[Case]
) -> list[Evaluation]:
    """Loss, logits and unscaled gradients of every case, all of one shape; the model keeps the last case's weights.

    Each replica works on its block of a case.
    """
    function = impl.steps.compiled(impl.steps.loss_and_gradients, model, optimizer, config.execution.compile)
    scale = float(impl.optimizer.loss_scale(optimizer))
    evaluations = []
    for case in cases:
        impl.model.load_weights(model, case.weights)
        images, labels = impl.distributed.shard(
            case.images, case.labels, impl.precision.variable_dtype(config.precision), replicas
        )
        replicas.on_collective()
        loss, logits, gradients = function(images, labels)
        named = {name: array / scale for name, array in impl.model.export_gradients(model, gradients).items()}
        whole_logits = impl.device.to_numpy(impl.distributed.gather(logits, replicas))
        evaluations.append(Evaluation(float(impl.distributed.mean(loss, replicas)), whole_logits, named))
    return evaluations


def predict(
    impl: Implementation, model: Any, config: RunConfig, device: Any, case: Case
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities (B, 1) of the case, each by a call of its own."""
    impl.model.load_weights(model, case.weights)
    images, _ = impl.device.to_device(case.images, case.labels, device, impl.precision.variable_dtype(config.precision))
    return impl.device.to_numpy(model.logits(images)), impl.device.to_numpy(model(images))


def update(
    impl: Implementation, model: Any, optimizer: Any, config: RunConfig, start: Weights, gradients: Sequence[Weights]
) -> Updates:
    """Apply unscaled gradients one after the other, from the weights `start`."""
    impl.model.load_weights(model, start)
    function = impl.steps.compiled(impl.steps.apply_gradients, model, optimizer, config.execution.compile)
    scales, applied = [], []
    for step in gradients:
        scales.append(impl.optimizer.loss_scale(optimizer))
        function(
            [impl.optimizer.scale_loss(optimizer, gradient) for gradient in impl.model.load_gradients(model, step)]
        )
        applied.append(impl.optimizer.applied_steps(optimizer))
    return Updates([float(scale) for scale in scales], [float(t) for t in applied], impl.model.export_weights(model))


def examine(
    impl: Implementation,
    model: Any,
    optimizer: Any,
    config: RunConfig,
    replicas: Any,
    images: np.ndarray,
    labels: np.ndarray,
) -> tuple[Arrays, PrecisionProbe]:
    """Export the trained weights; then compute, on other weights, the first batch's gradients and the label's cases.

    images (N, H, W, C) and labels (N, 1), in the order of training. The model is left with weights of the probe.
    """
    final_weights = impl.model.export_weights(model)
    cases = label_cases(config.model, config.train.batch_size)
    first_batch = first_batch_case(config, images, labels)
    first, *others = evaluate(impl, model, optimizer, config, replicas, [first_batch, *cases])
    seen = see_precision(cases, [evaluation.logits for evaluation in others])
    return Arrays(first.gradients, final_weights), PrecisionProbe(is_label_true(config.precision, seen), seen)


def first_batch_case(config: RunConfig, images: np.ndarray, labels: np.ndarray) -> Case:
    """The run's first batch on its starting weights; images (N, H, W, C) and labels (N, 1) in the order of training."""
    size = config.train.batch_size
    return Case("first batch", draw_weights(config.model, config.data.seed), images[:size], labels[:size])
