"""Files of others: each that cannot be read is named."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import data
from ddq_tf.errors import DDQError

PNG = tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy()


@pytest.fixture
def pictures(tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(PNG)
    return tmp_path


def test_folders_and_pipes_named_like_images_are_none(pictures):
    (pictures / "folder.png").mkdir()
    os.mkfifo(pictures / "pipe.png")
    assert sum(data.load(f"images:{pictures}", image_size=8).sizes.values()) == 9


def test_a_link_to_itself_is_named(pictures):
    os.symlink("z.png", pictures / "z.png")
    with pytest.raises(DDQError, match=r"z\.png"):
        data.load(f"images:{pictures}", image_size=8)


def test_names_that_are_no_text_are_named(pictures):
    with open(os.fsencode(pictures) + b"/\xff.png", "wb") as file:
        file.write(PNG)
    with pytest.raises(DDQError, match="names of images must be UTF-8"):
        data.load(f"images:{pictures}", image_size=8)


def example(label):
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[PNG])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    made = tf.train.Example(features=tf.train.Features(feature=features))
    return made.SerializeToString()


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([example(0), example(10**9)], "classes from 0 to below 100,000. Received: 0 to 10000000"),
        ([example(0), example(2**62)], "classes from 0 to below"),
        ([b"\xff\xff\xff"] * 9, "must be a whole TFRecord file with features"),
    ],
)
def test_records_of_others_are_named(records, message, tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for record in records:
            writer.write(record)
    with pytest.raises(DDQError, match=message):
        data.load(f"tfrecord:{tmp_path / 'x.tfrecord'}", image_size=8)
