"""Inputs as the network saw them: ranges for each channel, their order, what Keras says of both."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import applications

from ddq_tf import data, jobs
from ddq_tf.data.dataset import ArraySplit, Dataset
from ddq_tf.errors import DDQError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)


@pytest.fixture
def dataset() -> Dataset:
    split = ArraySplit(images=IMAGES, labels=np.arange(6))
    splits = {"train": split, "test": split}
    return Dataset(name="noise", image_shape=(4, 4, 3), class_names=("a",) * 6, splits=splits)


def inputs(dataset, **options):
    (batch,) = data.batches(dataset, "test", batch_size=6, **options)
    return batch[0].numpy()


def test_each_channel_has_a_range(dataset):
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    found = inputs(dataset, input_range=data.range_of(mean, std))
    np.testing.assert_allclose(found, (IMAGES - mean) / std, atol=1e-6)
    swapped = inputs(dataset, input_range=data.range_of(mean, [1]), channels="bgr")
    np.testing.assert_allclose(swapped, IMAGES[..., ::-1] - mean, atol=1e-4)
    (part,) = data.calibration_batches(
        dataset, num_samples=6, input_range=data.range_of([0], [255]), channels="bgr"
    )
    np.testing.assert_allclose(part, IMAGES[..., ::-1] / 255, atol=1e-6)


NETWORKS = {
    "mobilenet_v2": lambda: applications.MobileNetV2((32, 32, 3), 0.35, weights=None),
    "vgg16": lambda: applications.VGG16(False, None, input_shape=(32, 32, 3)),
    "densenet": lambda: applications.DenseNet121(False, None, input_shape=(32, 32, 3)),
    "mobilenet_v3": lambda: applications.MobileNetV3Small((32, 32, 3), 1.0, weights=None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_keras_applications_tell_what_they_take(name, dataset):
    network = NETWORKS[name]()
    preprocess = getattr(applications, name).preprocess_input
    expected = preprocess(IMAGES.astype(np.float32))
    outer = keras.Input((32, 32, 3))
    head = keras.layers.Dense(3)(keras.layers.Flatten()(network(outer)))
    for model in (network, keras.Model(outer, head)):
        found = data.published(model)
        assert found is not None
        np.testing.assert_allclose(
            inputs(dataset, input_range=found[0], channels=found[1]), expected, atol=2e-4
        )


def test_nothing_is_said_of_networks_that_keras_did_not_publish_so():
    bare = applications.MobileNetV3Small((32, 32, 3), weights=None, include_preprocessing=False)
    assert data.published(bare) is None
    own = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()], name="mine")
    assert data.published(own) is None
    network = applications.MobileNetV2((32, 32, 3), 0.35, weights=None)
    scaled = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 127.5, -1), network]
    )
    assert data.published(scaled) is None


def test_the_user_is_asked_first_then_the_file_then_keras():
    network = applications.VGG16(True, None, classes=10, input_shape=(32, 32, 3))
    options = jobs.DataOptions(spec="digits", limit=16)
    opened = jobs.open_for_model(options, network)
    assert opened.channels == "bgr"
    np.testing.assert_allclose(opened.input_range[0], (-103.939, -116.779, -123.68), atol=1e-4)
    assert opened.notes["channels"] == "bgr"
    noted = jobs.open_for_model(options, network, {"input_range": [[0, 0, 0], [1, 1, 2]]})
    assert (noted.input_range, noted.channels) == (((0, 0, 0), (1, 1, 2)), "rgb")
    said = jobs.DataOptions(spec="digits", mean=(127.5,), std=(127.5,), channels="rgb")
    told = jobs.open_for_model(said, network)
    assert (told.input_range, told.channels) == ((-1, 1), "rgb")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.range_of((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "times 255"),
        (lambda: data.range_of((1, 2), (1,)), "1 or 3 numbers each"),
        (lambda: data.as_range(1, 1), "low below high"),
        (lambda: data.as_range((0, 0, 0), (1, 1, 0)), "low below high"),
        (lambda: data.as_range((0, 0), (1, 1)), "one for each of 3 channels"),
        (lambda: data.as_range(float("-inf"), 1), "low below high"),
        (lambda: jobs.DataOptions(spec="digits", mean=(1.0,)), "mean and std together"),
        (
            lambda: jobs.DataOptions(spec="x", input_range=(0, 1), mean=(1.0,), std=(1.0,)),
            "or mean and std together",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(DDQError, match=message):
        call()


def test_an_unknown_order_is_refused(dataset):
    with pytest.raises(DDQError, match="channels must be one of"):
        inputs(dataset, channels="gbr")
