"""Random Keras models through the whole line: made, run, compared and shrunk."""
