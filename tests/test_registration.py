"""`import ddq_tf` is enough for Keras to load what ddq_tf saved, and costs little."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest

import ddq_tf
from ddq_tf import registration
from tests.toys import array, images, mixed_net

X = images(16)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = ddq_tf.quantize_model(mixed_net(), calibration=X)
    optimizer = ddq_tf.training.QuantizerLearningRate(keras.optimizers.SGD(0.1), 0.5)
    model.compile(optimizer, "mse")
    model.save(folder / "model.keras")
    layer = ddq_tf.layers.DDQDense(2)
    keras.Sequential([keras.Input((3,)), layer]).save(folder / "layer.keras")
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", array(model(X)))
    return folder


def run(code: str, folder) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("first", ["import keras, ddq_tf", "import ddq_tf, keras"])
def test_load_model_knows_ddq_tf_in_a_fresh_process(saved, first):
    run(
        f"{first}\n"
        "import numpy as np\n"
        "model = keras.models.load_model('model.keras')\n"
        "assert type(model) is ddq_tf.DDQModel\n"
        "assert type(model.optimizer).__name__ == 'QuantizerLearningRate'\n"
        "np.testing.assert_array_equal(np.asarray(model(np.load('x.npy'))), np.load('y.npy'))\n"
        "keras.models.load_model('layer.keras')\n",
        saved,
    )


def test_every_room_can_be_imported_first(saved):
    run(
        "import os\n"
        "import keras\n"  # once, then a process for each room
        "for room in ('layers', 'quantizers', 'search', 'training', 'export'):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        exec(f'from ddq_tf.{room} import *')\n"
        "        import ddq_tf\n"
        "        ddq_tf.load_model('model.keras')\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0, room\n",
        saved,
    )


def test_importing_takes_little_time_and_no_keras(saved):
    run(
        "import sys, time\n"
        "start = time.perf_counter()\n"
        "import ddq_tf\n"
        "assert time.perf_counter() - start < 3.0\n"  # 0.03 s; a busy machine may take ten times
        "assert not {'keras', 'tensorflow', 'jax'} & set(sys.modules)\n",
        saved,
    )


def test_every_class_that_registers_itself_has_a_stand_in():
    import ddq_tf.training  # noqa: F401

    known = keras.saving.get_custom_objects()
    ours = {n.removeprefix("ddq_tf>") for n, kind in known.items() if n.startswith("ddq_tf>")}
    listed = [name for names in registration._HOMES.values() for name in names]
    assert sorted(listed) == sorted(name for name in ours if name[0].isupper())
    for module, names in registration._HOMES.items():
        for name in names:
            assert getattr(sys.modules[module], name) is known[f"ddq_tf>{name}"]
