"""Masks, and boxes beside classes: from `fit` to a file in one partition."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from exactness import fitted, random_inputs, with_statistics
from networks import images

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import Runner, export_tflite, first_difference, verify

# The networks of benchmarks/exactness.py, smaller: layers cost time here, not pixels.
SMALL = {
    "unet": lambda: images.unet(16, (4, 8)),
    "ssd": lambda: images.ssd(32, 4),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_whole_way(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = SMALL[name]()
    x = random_inputs((8, *model.inputs[0].shape[1:]), 0.0, 255.0 if name == "ssd" else 1.0)
    q = quantize_model(with_statistics(model, x), DDQConfig(target="litert"), x)
    fitted(q, x, eager=True)
    file = export_tflite(q, tmp_path / "net.tflite")
    found = verify(q, file, [x])
    assert (found.equal_codes_share, found.weight_codes_identical) == (1.0, True)
    assert found.delegation.is_complete
    assert first_difference(q, x[:2]) is None
    runner, given = Runner(file), q(x, training=False)
    given = given if isinstance(given, dict) else {"mask": given}
    codes = runner.run(runner.quantize_input(x))
    assert set(codes) == set(given)
    for output, info in runner.outputs.items():  # by scale and zero point, as docs/heads.md says
        real = (codes[output].astype(np.float32) - info.zero_point) * np.float32(info.scale)
        np.testing.assert_allclose(real, keras.ops.convert_to_numpy(given[output]), atol=1e-6)
