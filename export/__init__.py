"""Export of trained DDQ models to TFLite, and the proof that the file computes what was trained."""

if __name__ != "ddq_tf.export":
    raise ImportError("import this package as ddq_tf.export, not from the checkout's top level")
