import importlib
import inspect
import os
import subprocess
import sys
import types

import pytest

import ddq_tf

ROOMS = (
    "quantizers",
    "layers",
    "graph",
    "search",
    "transform",
    "training",
    "data",
    "report",
    "models",
    "export",
    "web",
)


@pytest.mark.parametrize("name", ["ddq_tf", *(f"ddq_tf.{room}" for room in ROOMS)])
def test_every_public_name_is_there_documented_and_listed_once(name):
    room = importlib.import_module(name)
    assert sorted(set(room.__all__)) == sorted(room.__all__)
    for public in room.__all__:
        value = getattr(room, public)
        assert not isinstance(value, types.ModuleType), f"{name}.{public} is hidden by a module"
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{public} has no docstring"


@pytest.mark.parametrize("first", ["verification", "exporter", "stock", "measurement"])
def test_export_names_do_not_depend_on_what_was_imported_before(first):
    importlib.import_module(f"ddq_tf.export.{first}")
    from ddq_tf.export import export_tflite, stock_int8, tflite_accuracy, verify

    assert all(callable(f) for f in (export_tflite, stock_int8, tflite_accuracy, verify))
    assert callable(ddq_tf.export.verify)


@pytest.mark.parametrize("name", ["ddq_tf", "ddq_tf.export"])
def test_an_unknown_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        importlib.import_module(name).nothing  # noqa: B018


def test_lazy_names_are_listed():
    assert {"quantize_model", "DDQModel", "export", "models", "training"} <= set(dir(ddq_tf))


def test_importing_the_package_needs_no_keras():
    code = (
        "import ddq_tf, sys; ddq_tf.DDQConfig(); print({'keras', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


def test_public_functions_are_typed():
    for function in (ddq_tf.quantize_model, ddq_tf.export.export_tflite, ddq_tf.export.verify):
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not p.empty for p in signature.parameters.values())


def test_the_bridge_says_which_packages_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    words = r"this needs tf_keras: pip install 'ddq_tf\[tfmot\]'"
    with pytest.raises(ddq_tf.DDQError, match=words):
        ddq_tf.tfmot.from_tfmot("model.h5")


def test_the_bridge_imports_nothing_before_it_is_used():
    packages = "{'tf_keras', 'tensorflow_model_optimization'}"
    code = f"import sys, ddq_tf.tfmot; print({packages} & {{*sys.modules}})"
    # Which TFMOT sets in a process that imports it: TensorFlow then imports tf_keras by itself.
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.strip() == "set()"
