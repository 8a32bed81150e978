from __future__ import annotations

import pytest

from ddq_tf.errors import DDQError
from ddq_tf.models import MODELS, build


@pytest.mark.parametrize("name", sorted(MODELS))
def test_builds_by_name(name: str) -> None:
    model = build(name, (32, 32, 3), 4)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 4)


def test_passes_options_on() -> None:
    assert build("mobilenet_v2", (32, 32, 3), 4, alpha=0.35).name == "mobilenet_v2_0.35_32"


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(DDQError, match=r"one of \['mobilenet_v2', 'resnet8'\].*'vgg'"):
        build("vgg", (32, 32, 3), 4)
