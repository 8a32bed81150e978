"""Which answers of a classifier are right, against labels as users have them."""

from __future__ import annotations

import numpy as np
import pytest

from ddq_tf.answers import answers, right_answers
from ddq_tf.errors import DDQError

SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
CLASSES = np.array([1, 2, 2])
RIGHT = [[True], [False], [True]]


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES,
        CLASSES[:, None],
        CLASSES.astype(np.float32),
        np.eye(3)[CLASSES],
        np.eye(3)[CLASSES] > 0,
    ],
    ids=["classes", "column", "floats", "one-hot", "bool"],
)
@pytest.mark.parametrize("shape", [(3, 3), (3, 1, 1, 3)])
def test_classes(labels, shape):
    found = right_answers(labels, SCORES.reshape(shape), None)
    assert found.tolist() == RIGHT


@pytest.mark.parametrize(("threshold", "right"), [(0.5, [1, 0, 1, 1]), (0.0, [1, 0, 0, 1])])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_one_value_answers_by_its_side_of_the_threshold(threshold, right, shape):
    outputs = np.array([[0.9], [0.8], [0.3], [0.6]])
    labels = np.array([1, 0, 0, 1]).reshape(shape)
    assert right_answers(labels, outputs, threshold).ravel().tolist() == [bool(r) for r in right]
    assert right_answers(labels, outputs.ravel(), threshold).mean() == np.mean(right)


def test_several_labels_of_an_example_are_answers_of_their_own():
    labels = np.array([[1, 1, 0], [0, 0, 0]])
    outputs = np.array([[0.9, 0.2, 0.1], [0.4, 0.7, 0.1]])
    wanted = [[True, False, True], [True, False, True]]
    assert right_answers(labels, outputs, 0.5).tolist() == wanted
    # So they are behind a sigmoid where each example happens to have one.
    assert right_answers(np.eye(3)[[0, 1]], outputs, 0.5).size == 6
    assert right_answers(np.eye(3)[[0, 1]], outputs, 0.0).size == 2


def test_every_pixel_answers():
    random = np.random.default_rng(0)
    outputs = random.normal(size=(2, 4, 5, 3))
    labels = random.integers(0, 3, (2, 4, 5))
    wanted = outputs.argmax(-1) == labels
    for given in (labels, labels[..., None], np.eye(3)[labels]):
        np.testing.assert_array_equal(right_answers(given, outputs, 0.0), wanted.reshape(2, 20))
    mask = random.integers(0, 2, (2, 4, 5, 1))
    wanted = (outputs[..., :1] > 0) == mask
    for given in (mask, mask[..., 0]):
        found = right_answers(given, outputs[..., :1], 0.0)
        np.testing.assert_array_equal(found, wanted.reshape(2, 20))


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [
        (np.array([0.3, 0.7]), np.zeros((2, 1))),
        (np.array([[0.1, 0.2], [0.5, 0.5]]), np.zeros((2, 2))),
        (np.array([0, 1, 2]), np.zeros((2, 3))),
        (np.array([3, 4]), np.zeros((2, 1))),
        (np.zeros((2, 7)), np.zeros((2, 3))),
    ],
    ids=["regression", "soft", "count", "classes of one value", "shape"],
)
def test_what_is_no_classification_is_told(labels, outputs):
    with pytest.raises(DDQError, match=r"accuracy needs labels .* metrics=\[\.\.\.\]"):
        right_answers(labels, outputs, 0.5)


def test_answers_are_places_along_the_last_axis():
    assert answers(SCORES).tolist() == [[1], [0], [2]]
    assert answers(SCORES.reshape(1, 3, 3)).tolist() == [[1, 0, 2]]
    assert answers(np.array([[4], [-1]])).tolist() == [[4], [-1]]
