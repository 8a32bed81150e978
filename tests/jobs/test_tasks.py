"""Models of several tasks in the commands: compared and reported, but no classifiers."""

from __future__ import annotations

from typing import Any

import pytest
from networks.images import multi_task

from ddq_tf import DDQConfig, jobs, quantize_model, training
from ddq_tf.errors import DDQError
from ddq_tf.export import Runner, export_tflite
from ddq_tf.reconstruction import ReconstructionConfig
from tests.jobs.conftest import RECIPE
from tests.toys import images


def test_several_tasks_are_verified_and_reported_but_have_no_accuracy(tmp_path: Any) -> None:
    model = multi_task(8, 4)
    names = ["age", "mask", "species"]
    quantized = quantize_model(model, DDQConfig(budget=None), images(8, (8, 8, 3)))
    path = jobs.save_model(quantized, tmp_path / "ddq.keras", {"data": "digits"})
    file = export_tflite(quantized, tmp_path / "ddq.tflite").path
    assert list(Runner(file).outputs) == names
    options = jobs.DataOptions(spec="digits", limit=8)
    assert jobs.verify_file(path, file, options).equal_codes_share == 1.0
    report = jobs.make_report(jobs.subject_of_files(path, tflite=file, options=options))
    assert report.agreement is not None
    assert report.agreement.equal_codes_share == 1.0
    assert [variant.accuracy for variant in report.variants] == [None, None]
    for each in (path, file):
        with pytest.raises(DDQError, match=r"one output.*'age'.*'mask'.*'species'.*evaluate\(file"):
            jobs.evaluate_file(each, options)
    for call in (
        lambda: training.accuracy(quantized, []),
        lambda: jobs.quantize_float(model, options, DDQConfig(), RECIPE, out=tmp_path / "q.keras"),
        lambda: jobs.reconstruct_float(
            model, options, DDQConfig(), ReconstructionConfig(), out=tmp_path / "q.keras"
        ),
    ):
        with pytest.raises(DDQError, match=r"one output.*'mask'|one output.*3 outputs"):
            call()
