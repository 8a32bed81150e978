"""`evaluate` against Keras on the same model, for every kind of output."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import evaluate, export_tflite, tflite_accuracy
from tests.toys import array, images

L = keras.layers
FREE = DDQConfig(budget=None)
X = images(40)
RANDOM = np.random.default_rng(5)


def exported(tmp_path, tail, **kwargs):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, activation="relu")(inputs)
    model = quantize_model(keras.Model(inputs, tail(x)), FREE, X)
    path = tmp_path / "model.tflite"
    export_tflite(model, path, **kwargs)
    return model, path


def pooled(*layers):
    def tail(x):
        x = L.GlobalAveragePooling2D()(x)
        for layer in layers:
            x = layer(x)
        return x

    return tail


CLASSES = RANDOM.integers(0, 4, 40)
KINDS = {
    "softmax": (pooled(L.Dense(4, activation="softmax")), CLASSES),
    "logits": (pooled(L.Dense(4)), CLASSES),
    "one-hot": (pooled(L.Dense(4)), np.eye(4)[CLASSES]),
    "binary": (pooled(L.Dense(1, activation="sigmoid")), RANDOM.integers(0, 2, 40)),
    "binary logit": (pooled(L.Dense(1)), RANDOM.integers(0, 2, (40, 1))),
    "multi-label": (pooled(L.Dense(4, activation="sigmoid")), RANDOM.integers(0, 2, (40, 4))),
    "pixels": (L.Conv2D(3, 1), RANDOM.integers(0, 3, (40, 6, 6))),
    "mask": (L.Conv2D(1, 1, activation="sigmoid"), RANDOM.integers(0, 2, (40, 6, 6, 1))),
}


def by_keras(kind, model, labels):
    """Keras's own metric of that kind."""
    outputs = array(model(X))
    if kind == "pixels":  # some tie, and TensorFlow's argmax promises nothing of ties
        return float(np.mean(outputs.argmax(-1) == labels))
    if kind in ("binary", "multi-label", "mask"):
        metric = keras.metrics.BinaryAccuracy(threshold=0.5)
        labels = labels.reshape(outputs.shape)
    elif kind == "binary logit":
        metric = keras.metrics.BinaryAccuracy(threshold=0.0)
    elif kind == "one-hot":
        metric = keras.metrics.CategoricalAccuracy()
    else:
        metric = keras.metrics.SparseCategoricalAccuracy()
    metric.update_state(labels, outputs)
    return float(metric.result())


@pytest.mark.parametrize("output_type", ["int8", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_is_that_of_keras(kind, output_type, tmp_path):
    tail, labels = KINDS[kind]
    model, path = exported(tmp_path, tail, output_type=output_type)
    wanted = by_keras(kind, model, labels)
    assert tflite_accuracy(path, [(X[:30], labels[:30]), (X[30:], labels[30:])]) == pytest.approx(
        wanted, abs=1e-6
    )
    assert evaluate(path, (X, labels)) == {"accuracy": pytest.approx(wanted, abs=1e-6)}
    assert 0 < wanted < 1


def test_any_keras_metric_and_sample_weights(tmp_path):
    model, path = exported(tmp_path, pooled(L.Dense(2)))
    targets = RANDOM.normal(size=(40, 2)).astype(np.float32)
    weights = RANDOM.uniform(0, 2, 40).astype(np.float32)
    names = ["mse", keras.metrics.MeanAbsoluteError(name="distance")]
    found = evaluate(path, (X, targets, weights), metrics=names)
    outputs = array(model(X))
    squares, distances = np.square(outputs - targets), np.abs(outputs - targets)
    share = weights / weights.sum()
    assert list(found) == ["mse", "distance"]
    assert found["mse"] == pytest.approx(float(np.sum(squares.mean(1) * share)), rel=1e-4)
    assert found["distance"] == pytest.approx(float(np.sum(distances.mean(1) * share)), rel=1e-4)


def test_several_inputs_and_outputs(tmp_path):
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((5,), name="b")
    x = L.Concatenate()([L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(a)), b])
    heads = {"cls": L.Dense(3, name="cls")(x), "box": L.Dense(2, name="box")(x)}
    data = {"a": X, "b": RANDOM.normal(size=(40, 5)).astype(np.float32)}
    model = quantize_model(keras.Model([a, b], heads), FREE, data)
    path = tmp_path / "model.tflite"
    export_tflite(model, path)
    labels = {"cls": RANDOM.integers(0, 3, 40), "box": np.zeros((40, 2), np.float32)}
    metrics = {"cls": ["accuracy"], "box": "mse"}
    outputs = {name: array(value) for name, value in model(data).items()}
    wanted = {
        "cls_accuracy": np.mean(outputs["cls"].argmax(1) == labels["cls"]),
        "box_mse": np.mean(np.square(outputs["box"])),
    }
    for inputs in (data, [data["a"], data["b"]]):
        found = evaluate(path, (inputs, labels), metrics)
        assert found == {k: pytest.approx(float(v), rel=1e-4) for k, v in wanted.items()}
    with pytest.raises(DDQError, match=r"outputs \['box', 'cls'\]: metrics must be a dictionary"):
        tflite_accuracy(path, [(data, labels)])
    with pytest.raises(DDQError, match=r"metrics must be of the outputs .*Received: \['mask'\]"):
        evaluate(path, (data, labels), {"mask": ["accuracy"]})
    with pytest.raises(DDQError, match=r"output 'box' needs labels. Received: \['cls'\]"):
        evaluate(path, (data, {"cls": labels["cls"]}), metrics)
    with pytest.raises(DDQError, match=r"needs the inputs \['a', 'b'\]. Received: \['a'\]"):
        evaluate(path, ({"a": X}, labels), metrics)


def test_a_regression_has_no_accuracy(tmp_path):
    _, path = exported(tmp_path, pooled(L.Dense(1)))
    with pytest.raises(DDQError, match=r"regression.*metrics=\[\.\.\.\]"):
        tflite_accuracy(path, [(X, RANDOM.normal(size=40))])
