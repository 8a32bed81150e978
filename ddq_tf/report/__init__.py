"""What was learned and what came of it: data first, then JSON, text and HTML.

`load` and `save` keep a `Report` as JSON; `ddq_tf.report.text.render` prints it and
`ddq_tf.report.html.save` writes it as one self-contained page. `ddq_tf.report.plots` draws the
figures of both that page and PNG files.
"""

from ddq_tf.report.data import (
    DDQ_KERAS_LABEL,
    DDQ_LITERT_LABEL,
    ERROR_NAME,
    FLOAT_LABEL,
    STOCK_LABEL,
    ActivationReport,
    Agreement,
    LayerReport,
    ModelVariant,
    Report,
    WeightHistogram,
    load,
    save,
)

__all__ = [
    "DDQ_KERAS_LABEL",
    "DDQ_LITERT_LABEL",
    "ERROR_NAME",
    "FLOAT_LABEL",
    "STOCK_LABEL",
    "ActivationReport",
    "Agreement",
    "LayerReport",
    "ModelVariant",
    "Report",
    "WeightHistogram",
    "load",
    "save",
]
