"""One training step: forward, loss, gradients, update."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import tensorflow as tf
from tensorflow.python.eager import context

from common.process.recorder import Recorder
from tf_impl.distributed import Replicas, global_loss, mean, sum_gradients
from tf_impl.model import ConvNet, Convolution
from tf_impl.optimizer import Optimizer, applied_steps, loss_scale

T = TypeVar("T")

STEPS_PER_CALL = 20  # of several replicas, at most; on GPUs each is traced, which takes up to half a second

EXECUTION = {False: "tf.function", True: "XLA"}  # by the compile mode


class Step(NamedTuple):
    """What one step reports, as scalars that stay on the device until the epoch ends."""

    loss: tf.Tensor  # mean over the replica's share of the batch, before the update, unscaled
    accuracy: tf.Tensor  # portion of that share on the right side of 0.5, before the update
    loss_scale: tf.Tensor  # the scale this step used
    applied_steps: tf.Tensor  # updates so far; unchanged where this step was skipped


def binary_crossentropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean of y softplus(-z) + (1 - y) softplus(z), scalar; labels and logits (B, 1), in the logits' dtype.

    Not keras.losses.BinaryCrossentropy: in a graph without XLA its gradient cancels once a sample is confidently right,
    and after a sigmoid in half precision it clips a confidently wrong one.
    """
    return tf.reduce_mean(labels * tf.nn.softplus(-logits) + (1 - labels) * tf.nn.softplus(logits))


def binary_accuracy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Share of the batch whose probability is above 0.5 exactly where the label is 1, scalar."""
    return tf.reduce_mean(tf.cast((logits > 0) == (labels > 0), logits.dtype))


def loss_and_gradients(
    model: ConvNet, optimizer: Optimizer, images: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, Sequence[tf.Tensor]]:
    """Return loss (), logits (B, 1) and the gradients of the *scaled* loss, in the order of the variables.

    images (B, H, W, C), labels (B, 1) in {0, 1}: one replica's share of the batch. Loss and logits are of that share,
    gradients of the whole batch.
    """

    def passes(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            logits = model.logits(images, training=True)
            loss = binary_crossentropy(labels, logits)
            scaled_loss = optimizer.scale_loss(global_loss(loss, model))
        return loss, logits, tape.gradient(scaled_loss, model.trainable_variables)

    loss, logits, gradients = _fused(passes, model)(images, labels)
    return loss, logits, sum_gradients(gradients, model)


def apply_gradients(model: ConvNet, optimizer: Optimizer, gradients: Sequence[tf.Tensor]) -> None:
    """Update the weights from gradients of the scaled loss; if one is not finite, skip it and halve the scale.

    gradients: in the order of the variables.
    """

    def update(gradients: Sequence[tf.Tensor]) -> None:
        optimizer.apply(gradients, model.trainable_variables)

    _fused(update, model)(list(gradients))


def train_step(model: ConvNet, optimizer: Optimizer, images: tf.Tensor, labels: tf.Tensor) -> Step:
    """Take one step, or skip it where a scaled gradient is not finite; arguments as in loss_and_gradients."""
    scale = loss_scale(optimizer)
    loss, logits, gradients = loss_and_gradients(model, optimizer, images, labels)
    apply_gradients(model, optimizer, gradients)
    return Step(loss, binary_accuracy(labels, logits), scale, applied_steps(optimizer))


def compiled(function: Callable[..., T], model: ConvNet, optimizer: Optimizer, compile: bool) -> Callable[..., T]:
    """Return train_step, or another function of this file, bound to model and optimizer: a graph, fused or not.

    It runs on every replica.
    Differs from torch_impl: the whole step is one graph, and XLA fuses the loss and the update as well. Never eager:
    that is slow, and on a CPU the bias gradients of Keras' own layers are then accumulated in bfloat16 and come out
    wrong. AutoGraph has nothing to do here; it would write each function to a file, which stays behind when the process
    is killed.
    """
    model.in_xla = compile
    for layer in model.logits.layers:
        if isinstance(layer, Convolution):
            layer.in_xla = compile
    strategy = model.distribute_strategy
    bound = partial(function, model, optimizer)
    if compile and (strategy.num_replicas_in_sync == 1 or "GPU" in strategy.extended.worker_devices[0]):
        bound = tf.function(bound, jit_compile=True, autograph=False)
    return tf.function(lambda *batch: strategy.run(bound, args=batch), autograph=False)


def _fused(function: Callable[..., T], model: ConvNet) -> Callable[..., T]:
    """One program of XLA's, where `compiled` asked for that: what comes before or after the sum over the replicas.

    On a CPU XLA can't compile that sum; elsewhere these are parts of the program of the whole step.
    """
    return tf.function(function, jit_compile=True, autograph=False) if model.in_xla else function


def calls_of_epoch(
    step: tf.types.experimental.PolymorphicFunction,
    batches: Sequence[tuple[tf.Tensor, tf.Tensor]],
    replicas: Replicas,
) -> list[Callable[[], list[Step]]]:
    """The calls that step through the batches in their order.

    Differs from torch_impl: of several replicas many steps are one call, of one graph. It returns when the gradients
    have been summed, and the device has nothing to do until the next one has come to it.
    """
    # On GPUs the graph does not call the step's, but repeats it: the numbers by which replicas find their sums would
    # come from the host to each step after the one before.
    in_graph = step.python_function if replicas.backend == "nccl" else step

    def one(images: tf.Tensor, labels: tf.Tensor) -> list[Step]:
        return [step(images, labels)]

    def all_in_turn(batches: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> list[Step]:
        steps: list[Step] = []
        for images, labels in batches:
            with tf.control_dependencies(steps[-1] if steps else []):  # or the host prepares all batches at once
                steps.append(in_graph(tf.identity(images), tf.identity(labels)))
        return steps

    if replicas.size == 1:
        return [partial(one, *batch) for batch in batches]
    graph = tf.function(all_in_turn, autograph=False)  # an exception then keeps its words

    def many(batches: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> list[Step]:
        graph.get_concrete_function(batches)  # traced by each replica for itself
        replicas.on_collective()
        return graph(batches)

    return [partial(many, batches[at : at + STEPS_PER_CALL]) for at in range(0, len(batches), STEPS_PER_CALL)]


def train_epochs(calls: Sequence[Callable[[], list[Step]]], epochs: int, recorder: Recorder) -> None:
    """Make the calls of an epoch, epoch after epoch; what the steps report is fetched when the epoch is over."""
    for _ in range(epochs):
        recorder.start_epoch()
        steps = []
        for call in calls:
            steps += call()
            recorder.end_step()
        recorder.end_epoch(steps)


def execution_of(train: Callable[[], object], model: ConvNet, images: tf.Tensor) -> str:
    """Call train, and tell what has carried out its steps: one of EXECUTION, or in words what else.

    Differs from torch_impl: the runtime is asked for the graphs that it makes of functions as they are first called.
    """
    runtime = context.context()
    runtime.enable_graph_collection()
    try:
        train()
        found = runtime.export_run_metadata()
    finally:
        runtime.disable_graph_collection()
    nodes = [node for function in found.function_graphs for graph in function.partition_graphs for node in graph.node]
    in_xla = any(node.attr["_XlaMustCompile"].b or node.op.startswith(("_Xla", "XlaLaunch")) for node in nodes)
    outside = any("MatMul" in node.op or "Conv2D" in node.op for node in nodes)
    if in_xla == outside:
        return "XLA in part" if in_xla else "eager TensorFlow"
    return EXECUTION[in_xla]


def fetch(steps: Sequence[Step], replicas: Replicas) -> list[list[float]]:
    """Bring steps to the host: one list for each field of Step, the mean over the replicas. This waits for all."""
    return mean(_stack(steps), replicas).numpy().tolist()


@tf.function(autograph=False)
def _stack(steps: Sequence[Step]) -> tf.Tensor:
    columns = [tf.stack([tf.cast(value, tf.float64) for value in column]) for column in zip(*steps, strict=True)]
    return tf.stack(columns)
