"""Whose norm is clipped, each variable's or that of all, and before or after unscaling?

Gradient descent with a rate of 1 takes two weights of 0 to minus their gradients. These are 3 and 4, so their norm
is 5, and it is clipped to 1.
"""

from types import SimpleNamespace

import pytest

from tests.conftest import on_host
from tests.late import Late

torch, keras, tf = map(Late, ("torch", "keras", "tensorflow"))

SCALE = 1024.0


def in_keras(clipped: str) -> list[float]:
    """Where the two weights end."""
    weights = [keras.Variable(0.0), keras.Variable(0.0)]
    inner = {"each": {"clipnorm": 1.0}, "all": {"global_clipnorm": 1.0}, "all, while scaled": {}}[clipped]
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0, **inner), initial_scale=SCALE)
    optimizer.build(weights)
    with tf.GradientTape() as tape:
        scaled = optimizer.scale_loss(3 * weights[0] + 4 * weights[1])
    gradients = tape.gradient(scaled, [weight.value for weight in weights])
    if clipped == "all, while scaled":
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
    optimizer.apply(gradients, weights)
    return [on_host(weight).item() for weight in weights]


def in_torch(clipped: str) -> list[float]:
    """The same."""
    weights = [torch.nn.Parameter(torch.tensor(0.0)), torch.nn.Parameter(torch.tensor(0.0))]
    sgd, scaler = torch.optim.SGD(weights, 1.0), torch.amp.GradScaler("cpu", init_scale=SCALE)
    scaler.scale(3 * weights[0] + 4 * weights[1]).backward()
    if clipped != "all, while scaled":
        scaler.unscale_(sgd)
    for group in [[weight] for weight in weights] if clipped == "each" else [weights]:
        torch.nn.utils.clip_grad_norm_(group, 1.0)
    scaler.step(sgd)
    scaler.update()
    return [weight.item() for weight in weights]


CLIP = {"tensorflow": in_keras, "torch": in_torch}


@pytest.mark.parametrize(
    ("clipped", "weights"),
    [("each", [-1, -1]), ("all", [-0.6, -0.8]), ("all, while scaled", [-0.6 / SCALE, -0.8 / SCALE])],
)
def test_where_two_weights_end(impl: SimpleNamespace, clipped: str, weights: list[float]) -> None:
    assert CLIP[impl.framework](clipped) == pytest.approx(weights, rel=1e-5)  # clip_grad_norm_ adds 1e-6 to the norm
