"""DDQ: learned mixed-precision quantization for Keras, exported to TFLite."""
