"""What the parity checks look at: passes and updates on given inputs, by the path that the row trains with."""

from collections.abc import Sequence

import numpy as np

from common.config import RunConfig
from common.experiment.weights import Weights
from common.proof.checks import check_case, check_probabilities, check_updates
from common.proof.probe import PROBE_LOSS_SCALE, PROBE_MODEL, Case, Updates, draw_cases, draw_updates
from common.proof.reference import Evaluation
from common.results.check import Check
from tf_impl.device import to_device
from tf_impl.distributed import Replicas, alone, gather, mean, shard
from tf_impl.model import ConvNet, build_model, export_gradients, export_weights, load_gradients, load_weights
from tf_impl.optimizer import Optimizer, applied_steps, loss_scale, make_optimizer
from tf_impl.precision import variable_dtype
from tf_impl.train import apply_gradients, compiled, loss_and_gradients


def probe(config: RunConfig, device: str) -> list[Check]:
    """Checks C1 to C5 on the small probe model, with this row's precision, compile mode and Adam."""
    cases, gradients = draw_cases(), draw_updates(config.precision)
    replicas = alone(device)
    model = build_model(PROBE_MODEL, config.precision, device)
    optimizer = make_optimizer(model, config.train, PROBE_LOSS_SCALE, config.precision)
    evaluations = evaluate(model, optimizer, config, replicas, cases)
    scale = float(loss_scale(optimizer))
    checks = [
        check
        for case, evaluation in zip(cases, evaluations, strict=True)
        for check in check_case(config, case, scale, evaluation)
    ]
    checks += [check_probabilities(config, case, *predict(model, config, device, case)) for case in cases]
    start = {name: 0 * array for name, array in cases[0].weights.items()}
    return checks + check_updates(config, start, gradients, update(model, optimizer, config, start, gradients))


def evaluate(
    model: ConvNet, optimizer: Optimizer, config: RunConfig, replicas: Replicas, cases: Sequence[Case]
) -> list[Evaluation]:
    """Loss, logits and unscaled gradients of every case, all of one shape; the model keeps the last case's weights.

    Each replica works on its block of a case.
    """
    function = compiled(loss_and_gradients, model, optimizer, config.execution.compile)
    scale = float(loss_scale(optimizer))
    evaluations = []
    for case in cases:
        load_weights(model, case.weights)
        images, labels = shard(case.images, case.labels, variable_dtype(config.precision), replicas)
        replicas.on_collective()
        loss, logits, gradients = function(images, labels)
        named = {name: array / scale for name, array in export_gradients(model, gradients).items()}
        evaluations.append(Evaluation(float(mean(loss, replicas)), gather(logits, replicas).numpy(), named))
    return evaluations


def predict(model: ConvNet, config: RunConfig, device: str, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities (B, 1) of the case, each by a call of its own."""
    load_weights(model, case.weights)
    images, _ = to_device(case.images, case.labels, device, variable_dtype(config.precision))
    return model.logits(images).numpy(), model(images).numpy()


def update(
    model: ConvNet, optimizer: Optimizer, config: RunConfig, start: Weights, gradients: Sequence[Weights]
) -> Updates:
    """Apply unscaled gradients one after the other, from the weights `start`."""
    load_weights(model, start)
    function = compiled(apply_gradients, model, optimizer, config.execution.compile)
    scales, applied = [], []
    for step in gradients:
        scales.append(loss_scale(optimizer))
        function([optimizer.scale_loss(gradient) for gradient in load_gradients(model, step)])
        applied.append(applied_steps(optimizer))
    return Updates([float(scale) for scale in scales], [float(t) for t in applied], export_weights(model))
