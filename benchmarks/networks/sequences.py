"""Keyword spotters of recurrent layers."""

from __future__ import annotations

import keras
from keras import layers

FRAMES, FEATURES, WORDS = 49, 10, 12


def lstm(frames: int = FRAMES, units: int = 64) -> keras.Model:
    """Returns a convolution in time and an LSTM (Zhang et al., 2017: Hello Edge), 12 words."""
    inputs = keras.Input((frames, FEATURES), name="mfcc")
    x = layers.Conv1D(32, 5, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.2)(layers.LSTM(units)(x))
    return keras.Model(inputs, layers.Dense(WORDS, activation="softmax")(x), name="lstm")


def gru(frames: int = FRAMES, units: int = 48) -> keras.Model:
    """Returns a CRNN (Arik et al., 2017): convolutions, a GRU both ways, a GRU, 12 words."""
    inputs = keras.Input((frames, FEATURES, 1), name="mfcc")
    x = layers.Conv2D(16, (5, 3), strides=(3, 2), padding="same", activation="relu")(inputs)
    x = layers.Reshape((x.shape[1], -1))(x)
    x = layers.Bidirectional(layers.GRU(units, return_sequences=True))(x)
    x = layers.Dense(32, activation="relu")(layers.GRU(units)(x))
    return keras.Model(inputs, layers.Dense(WORDS)(x), name="gru")
