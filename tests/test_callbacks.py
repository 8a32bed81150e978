"""What QuantizationPlots writes, read back from TensorBoard's file."""

from __future__ import annotations

import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.callbacks import QuantizationPlots
from ddq_tf.errors import DDQError
from ddq_tf.layers import weighted_layers
from tests.toys import compiled, images, labels, mixed_net

X, Y = images(16), labels(16)
EPOCHS = 3


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = DDQConfig(target="litert-int8", precisions=(2, 3), budget="2.5bits", levels="free")
    model = compiled(quantize_model(mixed_net(), config, X))
    plots = QuantizationPlots(tmp_path_factory.mktemp("log"), every=2)
    model.fit(X, Y, epochs=EPOCHS, callbacks=[plots], verbose=0)
    return plots


def test_scalars_of_every_epoch_and_images_now_and_then(fitted: Any) -> None:
    (file,) = Path(fitted.log_dir).iterdir()
    steps = defaultdict(list)
    pictures = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            steps[value.tag].append(event.step)
            if value.HasField("image"):
                pictures[value.tag, event.step] = value.image
    for layer in weighted_layers(fitted.model):
        for kind in ("bits", "quantization_error", "range"):
            assert steps[f"{kind}/{layer.name}"] == list(range(EPOCHS))
    figures = ("ddq/levels", "ddq/bits", "ddq/error")
    assert {tag: steps[tag] for tag in figures} == {tag: [1, 2] for tag in figures}
    assert set(pictures) == {(tag, step) for tag in figures for step in (1, 2)}
    for picture in pictures.values():
        content = picture.encoded_image_string
        assert struct.unpack(">II", content[16:24]) == (picture.width, picture.height)
        assert tf.io.decode_png(content).shape == (picture.height, picture.width, 4)
    assert (
        pictures["ddq/error", 1].encoded_image_string
        != pictures["ddq/error", 2].encoded_image_string
    )


def test_tensorboard_reads_them(fitted: Any) -> None:
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(module).EventAccumulator(str(fitted.log_dir))
    accumulator.Reload()
    tags = accumulator.Tags()
    assert set(tags["images"]) == {"ddq/levels", "ddq/bits", "ddq/error"}
    for name, bits in fitted.bits.items():
        assert [event.value for event in accumulator.Scalars(f"bits/{name}")] == bits


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DDQError, match="at least 1"):
        QuantizationPlots(tmp_path, every=0)
