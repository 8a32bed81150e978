"""The work behind the `ddq` commands, one function each; silent unless given a `Screen`."""

# ruff: noqa: E402
from ddq_tf.backend import need_tensorflow

need_tensorflow("the ddq command, which loads images,", "Use ddq_tf from Python")

from ddq_tf.jobs.demo import DemoResult, run_demo
from ddq_tf.jobs.doctor import diagnose
from ddq_tf.jobs.export import export_file
from ddq_tf.jobs.images import Images, open_for_model
from ddq_tf.jobs.loading import (
    load_code,
    load_ddq_model,
    load_float_model,
    load_model,
    read_notes,
    save_model,
)
from ddq_tf.jobs.measure import Evaluation, evaluate_file, verify_file
from ddq_tf.jobs.quantize import Quantized, quantize_float
from ddq_tf.jobs.reconstruct import Reconstructed, reconstruct_float
from ddq_tf.jobs.report import (
    Subject,
    check_figures_folder,
    check_report_path,
    layers_report,
    make_report,
    save_figures,
    save_report,
    subject_of_files,
)
from ddq_tf.jobs.resume import work_folder
from ddq_tf.jobs.screen import Screen
from ddq_tf.jobs.train import Trained, train_float
from ddq_tf.jobs.web import WebPage, make_web_page
from ddq_tf.pictures import DataOptions

__all__ = [
    "DataOptions",
    "DemoResult",
    "Evaluation",
    "Images",
    "Quantized",
    "Reconstructed",
    "Screen",
    "Subject",
    "Trained",
    "WebPage",
    "check_figures_folder",
    "check_report_path",
    "diagnose",
    "evaluate_file",
    "export_file",
    "layers_report",
    "load_code",
    "load_ddq_model",
    "load_float_model",
    "load_model",
    "make_report",
    "make_web_page",
    "open_for_model",
    "quantize_float",
    "read_notes",
    "reconstruct_float",
    "run_demo",
    "save_figures",
    "save_model",
    "save_report",
    "subject_of_files",
    "train_float",
    "verify_file",
    "work_folder",
]
