"""The one place that knows how Keras's backends compile functions and hold variables."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from ddq_tf.errors import DDQError

Tensor = Any

_LARGEST_CONSTANT = 1 << 22  # values
_CALLS_PER_TRACE = 4  # a MobileNetV2 takes as long for 6 passes as for a trace and 6


def backend() -> str:
    """Returns "tensorflow", "jax" or another of Keras's backends."""
    return keras.backend.backend()


def _jax() -> Any:
    """JAX, which is optional."""
    return importlib.import_module("jax")


def need_tensorflow(what: str, cure: str) -> None:
    """Raises DDQError if TensorFlow cannot be imported.

    Args:
        what: needs it.
        cure: what to do without.
    """
    try:
        importlib.import_module("tensorflow")
    except ImportError as error:
        raise DDQError(
            f"{what} needs TensorFlow. Received: {error}, with Keras on {backend()!r}. {cure}, or "
            "install tensorflow: it may serve beside another backend"
        ) from error


def sync(model: Any) -> None:
    """Gives variables of a model in `fit` their values, to be read or assigned in a callback.

    Between the steps of an epoch Keras's JAX trainer keeps values beside the variables, which hold
    nothing then. It takes up what they hold before the next step.
    """
    give_back = getattr(model, "jax_state_sync", None)
    if give_back is not None:
        give_back()


@contextlib.contextmanager
def outside_of_tracing() -> Iterator[None]:
    """Lets variables be made within as if nothing were traced.

    A tf.function that makes variables itself is traced a second time, without.
    """
    if backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    def eager(next_creator: Callable[..., Any], **options: Any) -> Any:
        return next_creator(**{**options, "experimental_enable_variable_lifting": False})

    with tf.init_scope(), tf.variable_creator_scope(eager), variables_of_one_name():
        yield


@contextlib.contextmanager
def variables_of_one_name() -> Iterator[None]:
    """Lets TensorFlow give all variables made within one name of its own; Keras's names stay.

    Eager TensorFlow makes a kernel for each new name, which takes about a millisecond: half the
    time of making a quantizer.
    """
    if backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    def named(next_creator: Callable[..., Any], **options: Any) -> Any:
        return next_creator(**{**options, "name": "variable/"})  # with a slash: outside of scopes

    with tf.variable_creator_scope(named):
        yield


def compiled(
    function: Callable[..., Any], variables: Sequence[Any], num_calls: int | None = None
) -> Callable[..., Any]:
    """Returns a function, compiled when it is called; on other backends than the two, as it is.

    Args:
        function: of tensors; it may read and assign the variables.
        variables: all Keras variables that it reads or assigns.
        num_calls: how often it will be called, if known. TensorFlow runs a function a few times in
            less time than it traces it once.
    """
    if backend() == "tensorflow":
        if num_calls is not None and num_calls <= _CALLS_PER_TRACE:
            return function
        import tensorflow as tf

        # TensorFlow counts tracings by the code of a function, over all models that it is made for,
        # and warns of too many; those of a partial function it counts apart.
        return tf.function(functools.partial(function), reduce_retracing=True)
    return _Jitted(function, variables) if backend() == "jax" else function


def traced(
    function: Callable[..., Any], variables: Sequence[Any], like: Sequence[tuple[Any, ...]]
) -> Callable[..., Any]:
    """Returns a function, traced now: what layers are told for a while holds for it for good.

    On TensorFlow variables become constants: kernels are rounded once, and take BatchNorms in.

    Args:
        function: of tensors; it assigns no variables.
        variables: all Keras variables that it reads; they keep their values as long as it is used.
        like: arguments with all shapes that it will be called with. The first axis of arrays is the
            batch.
    """
    if backend() == "tensorflow":
        import tensorflow as tf

        specs = [tf.TensorSpec((None, *x.shape[1:]) if x.shape else (), x.dtype) for x in like[0]]
        # A tf.function that lives on would draw TensorFlow's warning of too much retracing.
        fixed = tf.function(with_values(_constants(variables), function), autograph=False)
        return fixed.get_concrete_function(*specs)
    if backend() == "jax":
        jitted = _Jitted(function, variables)
        for arguments in like:
            jitted.trace(*arguments)
        return jitted
    raise DDQError(
        f"this needs Keras on TensorFlow or JAX. Received: {backend()!r}. Set the environment "
        "variable KERAS_BACKEND before Keras is imported"
    )


def with_values(
    values: Sequence[tuple[Any, Any]], function: Callable[..., Any]
) -> Callable[..., Any]:
    """Returns a function for which variables hold other values.

    Args:
        values: variables, and the arrays that they hold meanwhile.
        function: of tensors; it assigns no variables.
    """

    def run(*arguments: Any) -> Any:
        # Here, where a graph is traced, or arrays would become inputs of it instead of constants.
        with keras.StatelessScope(state_mapping=values):
            return function(*arguments)

    return run


def _constants(variables: Sequence[Any]) -> list[tuple[Any, np.ndarray]]:
    """The variables that are small enough to stand in a graph, and what they hold."""
    small = [each for each in variables if math.prod(each.shape) <= _LARGEST_CONSTANT]
    return [(variable, np.asarray(keras.ops.convert_to_numpy(variable))) for variable in small]


class _Jitted:
    """JAX compiles functions of values alone: variables become arguments and results."""

    def __init__(self, function: Callable[..., Any], variables: Sequence[Any]) -> None:
        jax = _jax()

        held = list({id(variable): variable for variable in variables}.values())

        def pure(values: list[Tensor], *arguments: Any) -> tuple[Any, dict[int, Tensor]]:
            mapping = list(zip(held, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping) as scope:
                result = function(*arguments)
            now = [scope.get_current_value(variable) for variable in held]
            pairs = enumerate(zip(now, values, strict=True))
            return result, {n: new for n, (new, old) in pairs if new is not old}

        self._held = held
        self._run = jax.jit(pure)
        self._lowered: dict[Any, Any] = {}

    def _values(self) -> list[Tensor]:
        return [variable.value for variable in self._held]

    def trace(self, *arguments: Any) -> None:
        """Traces now, for arguments of these shapes."""
        shapes = tuple(x.shape for x in arguments)
        if shapes not in self._lowered:
            self._lowered[shapes] = self._run.lower(self._values(), *arguments).compile()

    def __call__(self, *arguments: Any) -> Any:
        """Runs it, and assigns what it assigned."""
        run = self._lowered.get(tuple(getattr(x, "shape", ()) for x in arguments), self._run)
        result, changed = run(self._values(), *arguments)
        for number, value in changed.items():
            self._held[number].assign(value)
        return result


See = Callable[[Tensor], Tensor]


def slopes(function: Callable[[See], tuple[Tensor, Any]]) -> tuple[list[Tensor], Any]:
    """Returns the gradients of a scalar at tensors inside of its computation.

    Args:
        function: returns (scalar, anything else). It calls what it is given with each tensor, and
            goes on with what that returns.

    Returns:
        The gradients, in the order of the calls, and what else the function returned.
    """
    if backend() == "tensorflow":
        import tensorflow as tf

        seen: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            tape.watch(tensor)
            seen.append(tensor)
            return tensor

        with tf.GradientTape() as tape:
            scalar, other = function(note)
        return list(tape.gradient(scalar, seen) or []), other
    jax = _jax()

    shapes: list[Any] = []

    def measure(tensor: Tensor) -> Tensor:
        shapes.append((tensor.shape, tensor.dtype))
        return tensor

    # JAX knows gradients of arguments alone: zeros, which are added to the tensors.
    jax.eval_shape(lambda: function(measure))
    zeros = [jax.numpy.zeros(*each) for each in shapes]

    def shifted(zeros: list[Tensor]) -> tuple[Tensor, Any]:
        left = iter(zeros)
        return function(lambda tensor: tensor + next(left))

    gradients, other = jax.grad(shifted, has_aux=True)(zeros)
    return gradients, other


def draw_classes(logits: Tensor, seed: int, number: Tensor) -> Tensor:
    """Returns a class for each row, drawn by its logits; the same for the same two numbers.

    Args:
        logits: float32 (rows, classes).
        seed: of the draws.
        number: of this draw, an int32 scalar.
    """
    if backend() == "tensorflow":
        import tensorflow as tf

        seeds = tf.stack([tf.constant(seed), number])
        return tf.random.stateless_categorical(logits, 1, seeds)[:, 0]
    jax = _jax()

    return jax.random.categorical(jax.random.fold_in(jax.random.key(seed), number), logits)


def draw_normal(like: Tensor, seed: int, number: Tensor) -> Tensor:
    """Returns standard normal numbers, float32; the same for the same two numbers.

    Args:
        like: whose shape to take.
        seed: of the draws.
        number: of this draw, an int32 scalar.
    """
    if backend() == "tensorflow":
        import tensorflow as tf

        seeds = tf.stack([tf.constant(seed), number])
        return tf.random.stateless_normal(tf.shape(like), seeds)
    jax = _jax()

    return jax.random.normal(jax.random.fold_in(jax.random.key(seed), number), like.shape)
