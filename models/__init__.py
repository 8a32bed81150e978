"""Float Keras models."""

if __name__ != "ddq_tf.models":
    raise ImportError("import this package as ddq_tf.models, not from the checkout's top level")
