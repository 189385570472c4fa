"""Do normalization layers agree by default, and what do BatchNorm's moving statistics become?

All see 0 and 2, whose mean is 1 and whose variance is 1, or 2 where it is estimated as that of a sample.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import on_host
from tests.late import Late

torch, keras = map(Late, ("torch", "keras"))

VALUES = np.float32([0, 2])


def batch_norm_in_keras(**settings: float) -> tuple[float, float, float]:
    """Of a batch of two images of one pixel: what 2 becomes, the moving mean and the moving variance."""
    layer = keras.layers.BatchNormalization(**settings)
    output = layer(VALUES.reshape(2, 1, 1, 1), training=True)
    return tuple(on_host(each).ravel()[-1] for each in (output, layer.moving_mean, layer.moving_variance))


def batch_norm_in_torch(**settings: float) -> tuple[float, float, float]:
    """The same."""
    layer = torch.nn.BatchNorm2d(1, **settings)
    output = layer(torch.from_numpy(VALUES.reshape(2, 1, 1, 1)))
    return tuple(on_host(each).ravel()[-1] for each in (output, layer.running_mean, layer.running_var))


BATCH_NORM = {"tensorflow": batch_norm_in_keras, "torch": batch_norm_in_torch}


def test_batch_norm_by_default(impl: SimpleNamespace) -> None:
    """Keras divides by sqrt(1.001) and keeps 0.99 of what was; PyTorch divides by sqrt(1.00001) and keeps 0.9."""
    expected = {"tensorflow": (0.9995004, 0.01, 1.0), "torch": (0.999995, 0.1, 1.1)}
    assert BATCH_NORM[impl.framework]() == pytest.approx(expected[impl.framework], rel=1e-6)


def test_batch_norm_with_equal_settings(impl: SimpleNamespace) -> None:
    """PyTorch's momentum is Keras' complement. The variances differ still: 0.99 + 0.01 * 1 and 0.99 + 0.01 * 2."""
    settings = {"tensorflow": {"momentum": 0.99, "epsilon": 1e-3}, "torch": {"momentum": 1 - 0.99, "eps": 1e-3}}
    variance = {"tensorflow": 1.0, "torch": 1.01}
    found = BATCH_NORM[impl.framework](**settings[impl.framework])
    assert found == pytest.approx((0.9995004, 0.01, variance[impl.framework]), rel=1e-6)


def test_batch_norm_with_the_same_momentum(impl: SimpleNamespace) -> None:
    """The mistake: 0.9 keeps nine tenths in Keras and one tenth in PyTorch."""
    expected = {"tensorflow": 0.1, "torch": 0.9}
    _, mean, _ = BATCH_NORM[impl.framework](momentum=0.9)
    assert mean == pytest.approx(expected[impl.framework], rel=1e-6)


def layer_norm_in_keras(values: np.ndarray, **settings: float) -> float:
    """What the larger of a sample's two features becomes."""
    return on_host(keras.layers.LayerNormalization(**settings)(values.reshape(1, 2))).max()


def layer_norm_in_torch(values: np.ndarray, **settings: float) -> float:
    """The same."""
    return on_host(torch.nn.LayerNorm(2, **settings)(torch.from_numpy(values.reshape(1, 2)))).max()


LAYER_NORM = {"tensorflow": layer_norm_in_keras, "torch": layer_norm_in_torch}


@pytest.mark.parametrize(("size", "in_keras", "in_torch"), [(1.0, 0.9995004, 0.999995), (0.01, 0.3015113, 0.9534626)])
def test_layer_norm_by_default(impl: SimpleNamespace, size: float, in_keras: float, in_torch: float) -> None:
    """The smaller the features, the more epsilon matters."""
    found = LAYER_NORM[impl.framework](np.float32(size) * VALUES)
    assert found == pytest.approx({"tensorflow": in_keras, "torch": in_torch}[impl.framework], rel=1e-6)


def test_layer_norm_with_one_epsilon(impl: SimpleNamespace) -> None:
    settings = {"tensorflow": {"epsilon": 1e-5}, "torch": {"eps": 1e-5}}
    found = LAYER_NORM[impl.framework](np.float32(0.01) * VALUES, **settings[impl.framework])
    assert found == pytest.approx(0.9534626, rel=1e-6)
