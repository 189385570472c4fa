"""What is left of the loss of a 16-bit probability?

A logit of 10 whose label is 0: the loss is 10 and its gradient 1. The nearest 16-bit number to the probability is 1.
"""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import needs_torch, on_host
from tests.late import Late

torch, functional, keras, tf = map(Late, ("torch", "torch.nn.functional", "keras", "tensorflow"))


def in_keras(dtype: str, of_logits: bool) -> tuple[float, float]:
    """Loss and gradient, behind a layer of that dtype."""
    layer = keras.layers.Dense(1, "linear" if of_logits else "sigmoid", False, dtype=f"mixed_{dtype}")
    layer.build((1, 1))
    layer.kernel.assign([[1.0]])
    logit = tf.constant([[10.0]])
    with tf.GradientTape() as tape:
        tape.watch(logit)
        loss = keras.losses.BinaryCrossentropy(from_logits=of_logits)(tf.zeros((1, 1)), layer(logit))
    return on_host(loss).item(), on_host(tape.gradient(loss, logit)).item()


def in_torch(dtype: str, of_logits: bool, device: str = "cpu") -> tuple[float, float]:
    """The same, all of it under autocast."""
    logit = torch.tensor([[10.0]], device=device, requires_grad=True)
    with torch.autocast(device, getattr(torch, dtype)):
        output = functional.linear(logit, torch.ones(1, 1, device=device))
        labels = torch.zeros(1, 1, device=device)
        if of_logits:
            loss = functional.binary_cross_entropy_with_logits(output, labels)
        else:
            loss = functional.binary_cross_entropy(torch.sigmoid(output), labels)
    loss.backward()
    return loss.item(), logit.grad.item()


LOSS = {"tensorflow": in_keras, "torch": in_torch}
OF_PROBABILITIES: dict[str, dict[str, Any]] = {
    "tensorflow": {"float16": (15.94, 0), "bfloat16": (15.94, 0)},  # clipped at 1 - 1e-7
    "torch": {"float16": (100, float("nan")), "bfloat16": (100, 0)},  # clamped at 100
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_of_a_logit_it_is_right(impl: SimpleNamespace, dtype: str) -> None:
    assert LOSS[impl.framework](dtype, of_logits=True) == pytest.approx((10, 1), rel=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_of_a_probability_the_gradient_is_lost(impl: SimpleNamespace, dtype: str) -> None:
    expected = OF_PROBABILITIES[impl.framework][dtype]
    assert LOSS[impl.framework](dtype, of_logits=False) == pytest.approx(expected, rel=1e-3, nan_ok=True)


@needs_torch
def test_autocast_on_a_gpu_refuses_bceloss(torch_impl: SimpleNamespace) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    with pytest.raises(RuntimeError, match="unsafe to autocast"):
        in_torch("float16", of_logits=False, device="cuda")
