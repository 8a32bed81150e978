"""A static folder that runs a .tflite file in the browser, with LiteRT.js."""

from ddq_tf.web.folder import MADE_BY, Preprocessing, check_folder, make_folder
from ddq_tf.web.runtime import PACKAGE, VERSION, find_runtime

__all__ = [
    "MADE_BY",
    "PACKAGE",
    "VERSION",
    "Preprocessing",
    "check_folder",
    "find_runtime",
    "make_folder",
]
