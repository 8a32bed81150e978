"""A DDQ model, and its file, take and give what the float model took and gave."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import Runner, export_tflite, first_difference, verify
from tests.toys import array, images, labels

L = keras.layers
FREE = DDQConfig(budget=None)
X = images(24)


def conv(filters=4):
    return L.Conv2D(filters, 3)


def pooled(x):
    return L.GlobalAveragePooling2D()(x)


def exact(model, x, tmp_path):
    """The DDQ model, whose file has its codes at every operator and output."""
    q = quantize_model(model, FREE, x)
    found = verify(q, export_tflite(q, tmp_path / "net.tflite"), [x])
    assert (found.equal_codes_share, found.max_lsb) == (1.0, 0)
    assert first_difference(q, x) is None
    return q


def outputs_of(tmp_path):
    return list(Runner(tmp_path / "net.tflite").outputs)


def named(structure):
    x = keras.Input((8, 8, 3))
    y = pooled(conv()(x))
    box = L.Reshape((2, 2), name="box")(L.Dense(4)(y))
    return keras.Model(x, structure(L.Dense(3, activation="softmax", name="cls")(y), box))


@pytest.mark.parametrize(
    "structure", [lambda a, b: {"cls": a, "box": b}, lambda a, b: [a, b], lambda a, b: (b, a)]
)
def test_outputs_keep_structure_and_names(structure, tmp_path):
    model = named(structure)
    q = quantize_model(model, FREE, X)
    wanted, given = model(X), q(X)
    assert type(given) is type(wanted)
    keras.tree.assert_same_structure(given, wanted)
    assert q.output_names == model.output_names
    q.compile("sgd", loss={"cls": "sparse_categorical_crossentropy", "box": "mse"})
    targets = {"cls": labels(24, 3), "box": np.zeros((24, 2, 2), np.float32)}
    if not isinstance(wanted, dict):
        targets = [targets[name] for name in model.output_names]
    q.fit(X, targets, verbose=0)
    q.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    assert loaded.output_names == model.output_names
    export_tflite(loaded, tmp_path / "net.tflite")
    assert outputs_of(tmp_path) == list(q.float_outputs)
    assert set(q.float_outputs) == {"cls", "box"}


def test_dictionaries_of_outputs_give_their_keys_to_the_file(tmp_path):
    x = keras.Input((8, 8, 3))
    y = conv()(x)
    exact(keras.Model(x, {"mask": conv()(y), "class": L.Dense(2)(pooled(y))}), X, tmp_path)
    assert sorted(outputs_of(tmp_path)) == ["class", "mask"]


def test_outputs_that_are_one_tensor_stay_as_many_in_their_order(tmp_path):
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(4, 3, activation="relu", name="first")(x)
    logits = L.Dense(3, name="logits")(pooled(y))
    again = L.Dropout(0.1, name="again")(logits)
    model = keras.Model(x, [y, logits, L.ReLU(name="same")(y), again, y])
    exact(model, X, tmp_path)
    assert outputs_of(tmp_path) == ["first", "logits", "same", "again", "first_2"]


def test_an_input_may_be_an_output(tmp_path):
    x = keras.Input((8, 8, 3), name="image")
    exact(keras.Model(x, [L.Identity(name="copy")(x), conv()(x)]), X, tmp_path)
    assert outputs_of(tmp_path)[0] == "copy"


@pytest.mark.parametrize("input_type", ["int8", "float32"])
def test_an_input_that_nothing_reads_stays(input_type, tmp_path):
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    q = quantize_model(keras.Model([a, b], L.Dense(3)(b)), FREE, [X[:, 0, :, 0], X[:, 1, :, 0]])
    export_tflite(q, tmp_path / "net.tflite", input_type=input_type)
    assert list(Runner(tmp_path / "net.tflite").inputs) == ["a", "b"]


def test_what_no_output_needs_is_left_out():
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 3), name="b")
    inner = keras.Model([a, b], a * 0.5)  # b is not read
    x = keras.Input((8, 8, 3))
    with pytest.raises(DDQError, match="no convolution or dense layer"):
        quantize_model(keras.Model(x, inner([x, L.Conv2D(3, 1)(x)])), FREE, X)


def by_name(rgb, depth):
    a, b = keras.Input((8, 8, 3), name="rgb"), keras.Input((8, 8, 3), name="depth")
    inner = keras.Model(rgb(a, b), L.Conv2D(2, 1)(L.Subtract()([a, b])))
    c, d = keras.Input((8, 8, 3), name="c"), keras.Input((8, 8, 3), name="d")
    return keras.Model([c, d], inner(depth(c, d)))


@pytest.mark.parametrize(
    ("inputs", "call"),
    [
        (lambda a, b: [a, b], lambda c, d: {"rgb": c, "depth": d}),
        (lambda a, b: {"rgb": a, "depth": b}, lambda c, d: {"rgb": c, "depth": d}),
    ],
)
def test_an_inner_model_called_by_name_keeps_its_inputs_apart(inputs, call, tmp_path):
    model = by_name(inputs, call)
    x = [X, 2 * X[::-1]]
    q = exact(model, x, tmp_path)
    wanted, given = array(model(x)).ravel(), array(q(x)).ravel()
    assert np.corrcoef(wanted, given)[0, 1] > 0.999


def test_two_inputs_are_calibrated_as_fit_takes_them():
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((4,), name="b")
    top = L.Concatenate()([pooled(conv()(a)), L.Dense(8)(b)])
    model = keras.Model([a, b], L.Dense(3)(top))
    one, two = X, X[:, 0, :4, 0]
    forms = [
        {"a": one, "b": two},
        [one, two],
        [{"a": one, "b": two}],
        [[one, two]],
        [((one, two), labels(24))],
        [({"a": one, "b": two}, labels(24))],
    ]
    first, *others = [quantize_model(model, FREE, data).get_weights() for data in forms]
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0.05, atol=0.05)


def test_a_dictionary_model_takes_dictionaries(tmp_path):
    inputs = {name: keras.Input((4,), name=name) for name in ("right", "left")}
    model = keras.Model(inputs, L.Dense(2)(inputs["left"] - inputs["right"]))
    x = {"left": X[:, 0, :4, 0], "right": X[:, 1, :4, 0]}
    q = exact(model, x, tmp_path)
    np.testing.assert_allclose(array(q(x)), array(model(x)), atol=0.1)


def test_endless_calibration_ends():
    def forever():
        while True:
            yield [X[:1]]

    config = DDQConfig(budget=None, calibration_images=5)
    model = keras.Model(x := keras.Input((8, 8, 3)), conv()(x))
    quantize_model(model, config, forever)
    quantize_model(model, config, forever())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"a": X}, "lacks the inputs b"),
        ([[X]], "a list of 2 arrays, or a dictionary. Received: list of 1"),
        ([[X, X[:3, 0, :4, 0]]], "as many examples of each"),
        ([[X, X[:, 0, :3, 0]]], r"input 'b', needs the shape \(batch, 4\)"),
    ],
)
def test_refuses_other_inputs(data, words):
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((4,), name="b")
    top = L.Concatenate()([pooled(conv()(a)), L.Dense(8)(b)])
    with pytest.raises(DDQError, match=words):
        quantize_model(keras.Model([a, b], L.Dense(3)(top)), FREE, data)


def test_a_free_image_size_is_refused_before_work():
    x = keras.Input((None, None, 3), name="image")
    with pytest.raises(DDQError, match=r"input 'image': needs a fixed size.*None, None, 3"):
        quantize_model(keras.Model(x, conv()(x)), FREE, X)


@pytest.mark.parametrize("shared", ["relu", "relu6", "sigmoid", "softmax", "elu"])
def test_an_activation_layer_called_several_times(shared, tmp_path):
    keras.utils.set_random_seed(0)  # a softmax on the middle of two codes may become either
    layer = L.Softmax() if shared == "softmax" else L.Activation(shared)
    x = keras.Input((8, 8, 3))
    y = layer(L.MaxPooling2D()(conv()(layer(conv()(x)))))
    q = quantize_model(keras.Model(x, conv(2)(y) if y.shape[1] > 2 else L.Dense(2)(y)), FREE, X)
    found = verify(q, export_tflite(q, tmp_path / "net.tflite"), [X])
    assert found.equal_codes_share == 1.0


def test_users_names_stay_where_rewriting_makes_new_ones():
    x = keras.Input((8, 8, 3))
    parts = [L.Conv2D(3, 1, name=f"sum_{i}")(x) for i in range(3)]
    model = keras.Model(x, L.Conv2D(2, 1, name="after")(L.Add(name="sum")(parts)))
    q = quantize_model(model, FREE, X)
    for i in range(3):
        assert q.get_layer(f"sum_{i}").kernel.shape == (1, 1, 3, 3)


def test_an_identity_with_a_dtype_policy_goes_through(tmp_path):
    x = keras.Input((8, 8, 3))
    policy = keras.DTypePolicy("float32")
    exact(keras.Model(x, conv()(L.Identity(dtype=policy)(conv()(x)))), X, tmp_path)


def test_exporting_again_gives_the_same_file(tmp_path):
    x = keras.Input((8, 8, 3))
    y = L.Subtract()([L.Rescaling(0.3)(x), L.Activation("sigmoid")(conv(3)(L.ZeroPadding2D()(x)))])
    q = quantize_model(keras.Model(x, L.Concatenate()([y, x])), FREE, X)
    before = array(q(X))
    paths = [export_tflite(q, tmp_path / f"{i}.tflite").path for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    np.testing.assert_array_equal(before, array(q(X)))


def test_what_another_loop_trained_is_aligned_once(tmp_path):
    q = quantize_model(keras.Model(x := keras.Input((8, 8, 3)), conv()(conv()(x))), FREE, X)
    for variable in q.trainable_variables:
        variable.assign(array(variable) * 1.01 + 1e-3)
    found = verify(q, export_tflite(q, tmp_path / "net.tflite"), [X])
    assert found.equal_codes_share == 1.0
    again = array(q(X))
    export_tflite(q, tmp_path / "again.tflite")
    np.testing.assert_array_equal(again, array(q(X)))


def of_any_size():
    """Layers that ask for their size, in a model that leaves it open."""
    inputs = keras.Input((None, None, 4))
    x = L.Conv2D(4, 3, padding="same")(inputs)
    x = L.UpSampling2D(2, interpolation="bilinear")(x)
    x = L.Conv2DTranspose(4, 3, 2, padding="same")(x)
    x = L.AveragePooling2D(3, 2, padding="same")(x)
    return keras.Model(inputs, L.SeparableConv2D(4, 3)(x), name="any_size")


@pytest.mark.parametrize("sizes", [(8,), (8, 6)])
def test_an_inner_model_of_any_size_has_that_of_its_calls(sizes, tmp_path):
    inner = of_any_size()
    inputs = [keras.Input((size, size, 3), name=f"of_{size}") for size in sizes]
    parts = [L.Flatten()(inner(L.Conv2D(4, 1)(each))) for each in inputs]
    joined = L.Concatenate()(parts) if len(parts) > 1 else parts[0]
    model = keras.Model(inputs, L.Dense(3)(joined))
    data = {f"of_{size}": images(12, (size, size, 3)) for size in sizes}
    quantized = quantize_model(model, DDQConfig(budget=None), data)
    result = export_tflite(quantized, tmp_path / "model.tflite")
    assert verify(quantized, result, data).equal_codes_share == 1


def test_an_inner_model_on_another_shape_is_refused():
    inputs = keras.Input((1,))
    inner = keras.Model(inputs, L.Dense(5)(inputs), name="inner")
    outer = keras.Input((1,))
    model = keras.Model(outer, inner(inner(outer)))  # Keras builds it, and cannot run it
    with pytest.raises(DDQError, match=r"'inner' takes inputs of shape \(None, 1\).*\(None, 5\)"):
        quantize_model(model, calibration=images(8, (1,)))
