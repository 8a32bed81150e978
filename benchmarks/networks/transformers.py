"""Transformers and their kin on images, written as on keras.io, with layers of their own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

SIDE = 32


class Patches(layers.Layer):
    """Cuts images into rows of patches."""

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def call(self, images: Any) -> Any:
        """Returns (batch, patches, values of a patch)."""
        shape: Any = ops.shape(images)
        batch, height, width, channels = shape
        patches = ops.image.extract_patches(images, size=self.size)
        count = (height // self.size) * (width // self.size)
        return ops.reshape(patches, (batch, count, self.size * self.size * channels))


class PatchEncoder(layers.Layer):
    """A projection and learned positions."""

    def __init__(self, count: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count
        self.projection = layers.Dense(width)
        self.position_embedding = layers.Embedding(count, width)

    def call(self, patches: Any) -> Any:
        """Returns the tokens."""
        positions = ops.expand_dims(ops.arange(start=0, stop=self.count, step=1), axis=0)
        return self.projection(patches) + self.position_embedding(positions)


def _mlp(x: Any, units: tuple[int, ...], activation: Any) -> Any:
    for width in units:
        x = layers.Dropout(0.1)(layers.Dense(width, activation=activation)(x))
    return x


def _changes() -> list[Any]:
    return [layers.RandomFlip("horizontal"), layers.RandomZoom(0.2, 0.2)]


def vit(
    side: int = SIDE, width: int = 48, depth: int = 4, heads: int = 3, *, augmented: bool = True
) -> keras.Model:
    """Returns keras.io's Vision Transformer (Dosovitskiy et al., 2020) with its augmentation."""
    inputs = keras.Input((side, side, 3), name="image")
    augmentation = keras.Sequential(
        [layers.Rescaling(1 / 255), *(_changes() if augmented else ())], name="augmentation"
    )
    x = Patches(4)(augmentation(inputs))
    x = PatchEncoder((side // 4) ** 2, width)(x)
    for _ in range(depth):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.MultiHeadAttention(num_heads=heads, key_dim=width // heads, dropout=0.1)(y, y)
        x = layers.Add()([y, x])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([_mlp(y, (2 * width, width), keras.activations.gelu), x])
    x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
    x = _mlp(layers.Dropout(0.5)(x), (64,), keras.activations.gelu)
    return keras.Model(inputs, layers.Dense(10)(x), name="vit")


def _conv(x: Any, filters: int, kernel_size: int = 3, strides: int = 1) -> Any:
    return layers.Conv2D(
        filters, kernel_size, strides=strides, activation=keras.activations.swish, padding="same"
    )(x)


def _inverted_residual(x: Any, expanded: int, filters: int, strides: int = 1) -> Any:
    y = layers.Conv2D(expanded, 1, padding="same", use_bias=False)(x)
    y = keras.activations.swish(layers.BatchNormalization()(y))
    if strides == 2:
        y = layers.ZeroPadding2D(((0, 1), (0, 1)))(y)
    padding = "same" if strides == 1 else "valid"
    y = layers.DepthwiseConv2D(3, strides=strides, padding=padding, use_bias=False)(y)
    y = keras.activations.swish(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(filters, 1, use_bias=False)(y))
    return layers.Add()([y, x]) if x.shape[-1] == filters and strides == 1 else y


def _transformer(x: Any, depth: int, heads: int = 2) -> Any:
    width = x.shape[-1]
    for _ in range(depth):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.MultiHeadAttention(num_heads=heads, key_dim=width, dropout=0.1)(y, y)
        x = layers.Add()([y, x])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([_mlp(y, (2 * width, width), keras.activations.swish), x])
    return x


def _joined(x: Any, global_features: Any, width: int) -> Any:
    y = _conv(global_features, x.shape[-1], 1)
    return _conv(layers.Concatenate(axis=-1)([x, y]), width)


def _mobilevit_block(x: Any, depth: int, width: int) -> Any:
    """As keras.io has it: attention over pixels and patches alike."""
    local = _conv(_conv(x, width), width, 1)
    count = local.shape[1] * local.shape[2] // 4
    patches = layers.Reshape((4, count, width))(local)
    folded = layers.Reshape((*local.shape[1:-1], width))(_transformer(patches, depth))
    return _joined(x, folded, width)


def _mobilevit_block_unfolded(x: Any, depth: int, width: int) -> Any:
    """As the paper has it: attention among the pixels at one place of all patches."""
    local = _conv(_conv(x, width), width, 1)
    height, breadth = local.shape[1] // 2, local.shape[2] // 2
    y = ops.reshape(local, (-1, height, 2, breadth, 2, width))
    y = ops.transpose(y, (0, 2, 4, 1, 3, 5))
    y = ops.reshape(y, (-1, height * breadth, width))
    y = _transformer(y, depth)
    y = ops.reshape(y, (-1, 2, 2, height, breadth, width))
    y = ops.transpose(y, (0, 3, 1, 4, 2, 5))
    return _joined(x, ops.reshape(y, (-1, 2 * height, 2 * breadth, width)), width)


def mobilevit(side: int = 64) -> keras.Model:
    """Returns a MobileViT-XXS (Mehta and Rastegari, 2021) of two of its three stages."""
    inputs = keras.Input((side, side, 3), name="image")
    x = _conv(layers.Rescaling(1 / 255)(inputs), 16, strides=2)
    x = _inverted_residual(x, 32, 16)
    x = _inverted_residual(x, 32, 24, 2)
    x = _inverted_residual(x, 48, 24)
    x = _mobilevit_block_unfolded(_inverted_residual(x, 48, 48, 2), 2, 32)
    x = _mobilevit_block(_inverted_residual(x, 64, 64, 2), 2, 48)
    x = layers.GlobalAveragePooling2D()(_conv(x, 160, 1))
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x), name="mobilevit")


def _partition(x: Any, size: int) -> Any:
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height // size, size, width // size, size, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, size, size, channels))


def _reversed(windows: Any, size: int, height: int, width: int, channels: int) -> Any:
    x = ops.reshape(windows, (-1, height // size, width // size, size, size, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height, width, channels))


class WindowAttention(layers.Layer):
    """Attention within windows, with a bias for each relative position."""

    def __init__(self, width: int, size: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.heads = size, heads
        self.scale = (width // heads) ** -0.5
        self.qkv = layers.Dense(3 * width)
        self.dropout = layers.Dropout(0.03)
        self.proj = layers.Dense(width)
        self.relative_position_bias_table = self.add_weight(
            shape=((2 * size - 1) ** 2, heads), initializer="random_normal", trainable=True
        )
        coords = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"))
        flat = coords.reshape(2, -1)
        relative = (flat[:, :, None] - flat[:, None, :]).transpose(1, 2, 0) + size - 1
        relative[:, :, 0] *= 2 * size - 1
        index = relative.sum(-1)
        self.relative_position_index = keras.Variable(
            initializer=index, shape=index.shape, dtype="int", trainable=False
        )

    def call(self, x: Any, hidden: Any = None) -> Any:
        """Returns (windows, pixels, channels)."""
        _, size, channels = x.shape
        x = ops.reshape(self.qkv(x), (-1, size, 3, self.heads, channels // self.heads))
        x = ops.transpose(x, (2, 0, 3, 1, 4))
        query, key, value = x[0], x[1], x[2]
        scores = (query * self.scale) @ ops.transpose(key, (0, 1, 3, 2))
        index = ops.reshape(self.relative_position_index, (-1,))
        bias = ops.take(self.relative_position_bias_table, index, axis=0)
        bias = ops.transpose(ops.reshape(bias, (size, size, -1)), (2, 0, 1))
        scores = scores + ops.expand_dims(bias, axis=0)
        if hidden is not None:
            count = hidden.shape[0]
            hidden = ops.cast(ops.expand_dims(ops.expand_dims(hidden, axis=1), axis=0), "float32")
            scores = ops.reshape(scores, (-1, count, self.heads, size, size)) + hidden
            scores = ops.reshape(scores, (-1, self.heads, size, size))
        weights = self.dropout(keras.activations.softmax(scores, axis=-1))
        x = ops.reshape(ops.transpose(weights @ value, (0, 2, 1, 3)), (-1, size, channels))
        return self.dropout(self.proj(x))


class SwinBlock(layers.Layer):
    """One block of Swin (Liu et al., 2021), on rows of patches."""

    def __init__(self, width: int, side: int, heads: int, size: int, shift: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.side, self.size, self.shift = side, size, shift
        self.norm1 = layers.LayerNormalization(epsilon=1e-5)
        self.attn = WindowAttention(width, size, heads)
        self.drop_path = layers.Dropout(0.03)
        self.norm2 = layers.LayerNormalization(epsilon=1e-5)
        self.mlp = keras.Sequential(
            [
                layers.Dense(2 * width),
                layers.Activation(keras.activations.gelu),
                layers.Dropout(0.03),
                layers.Dense(width),
                layers.Dropout(0.03),
            ]
        )

    def build(self, input_shape: Any) -> None:
        """Makes the mask of shifted windows."""
        self.attn_mask = None
        if self.shift:
            parts = np.zeros((1, self.side, self.side, 1), np.float32)
            cuts = (
                slice(0, -self.size),
                slice(-self.size, -self.shift),
                slice(-self.shift, None),
            )
            for number, (rows, columns) in enumerate((r, c) for r in cuts for c in cuts):
                parts[:, rows, columns, :] = number
            windows: Any = _partition(ops.convert_to_tensor(parts), self.size)
            windows = ops.reshape(windows, [-1, self.size * self.size])
            columns: Any = ops.expand_dims(windows, axis=1)
            mask: Any = columns - ops.expand_dims(windows, axis=2)
            mask = ops.where(mask != 0, -100.0, mask)
            mask = ops.where(mask == 0, 0.0, mask)
            self.attn_mask = keras.Variable(
                initializer=mask, shape=mask.shape, dtype=mask.dtype, trainable=False
            )

    def call(self, x: Any, training: bool = False) -> Any:
        """Returns the rows."""
        side, channels, skip = self.side, x.shape[-1], x
        x = ops.reshape(self.norm1(x), (-1, side, side, channels))
        if self.shift > 0:
            x = ops.roll(x, shift=[-self.shift, -self.shift], axis=[1, 2])
        windows = ops.reshape(_partition(x, self.size), (-1, self.size * self.size, channels))
        windows = self.attn(windows, hidden=self.attn_mask)
        windows = ops.reshape(windows, (-1, self.size, self.size, channels))
        x = _reversed(windows, self.size, side, side, channels)
        if self.shift > 0:
            x = ops.roll(x, shift=[self.shift, self.shift], axis=[1, 2])
        x = skip + self.drop_path(ops.reshape(x, (-1, side * side, channels)), training=training)
        return x + self.drop_path(self.mlp(self.norm2(x)), training=training)


class PatchMerging(layers.Layer):
    """Joins patches of 2 x 2."""

    def __init__(self, side: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = side
        self.linear_trans = layers.Dense(2 * width, use_bias=False)

    def call(self, x: Any) -> Any:
        """Returns a quarter as many rows of twice the width."""
        channels = x.shape[-1]
        x = ops.reshape(x, (-1, self.side, self.side, channels))
        parts = (x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :], x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :])
        x = ops.reshape(ops.concatenate(parts, axis=-1), (-1, (self.side // 2) ** 2, 4 * channels))
        return self.linear_trans(x)


def swin(side: int = SIDE, width: int = 32, heads: int = 4, size: int = 4) -> keras.Model:
    """Returns keras.io's Swin Transformer: two blocks, one of them of shifted windows, merged."""
    inputs = keras.Input((side, side, 3), name="image")
    count = side // 2
    x = PatchEncoder(count * count, width)(Patches(2)(inputs))
    x = SwinBlock(width, count, heads, size, 0)(layers.Dropout(0.03)(x))
    x = SwinBlock(width, count, heads, size, size // 2)(x)
    x = layers.GlobalAveragePooling1D()(PatchMerging(count, width)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="swin")


class LayerScale(layers.Layer):
    """Multiplies channels by learned numbers."""

    def build(self, input_shape: Any) -> None:
        """Creates them."""
        self.gamma = self.add_weight(
            shape=(input_shape[-1],), initializer=keras.initializers.Constant(0.5), name="gamma"
        )

    def call(self, x: Any) -> Any:
        """Returns x * gamma."""
        return x * self.gamma


class StochasticDepth(layers.Layer):
    """Leaves a branch out now and then, in training."""

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, x: Any, training: bool = False) -> Any:
        """Returns x, or zeros for some examples."""
        if training:
            keep = 1 - self.rate
            shape: Any = ops.shape(x)
            shape = (shape[0], *(1 for _ in x.shape[1:]))
            kept = keep + keras.random.uniform(shape, 0, 1, seed=self.seed_generator)
            return x / keep * ops.floor(kept)
        return x


def convnext(
    side: int = 64, widths: tuple[int, ...] = (16, 32, 64), depths: tuple[int, ...] = (1, 1, 2)
) -> keras.Model:
    """Returns a ConvNeXt (Liu et al., 2022) of reduced size."""
    inputs = keras.Input((side, side, 3), name="image")
    x = layers.Conv2D(widths[0], 4, strides=4)(layers.Rescaling(1 / 255)(inputs))
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if stage:
            x = layers.Conv2D(width, 2, strides=2)(layers.LayerNormalization(epsilon=1e-6)(x))
        for _ in range(depth):
            y = layers.DepthwiseConv2D(7, padding="same")(x)
            y = layers.LayerNormalization(epsilon=1e-6)(y)
            y = layers.Activation("gelu")(layers.Dense(4 * width)(y))
            y = LayerScale()(layers.Dense(width)(y))
            x = x + StochasticDepth(0.1)(y)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(10)(x), name="convnext")


class EfficientAttention(layers.Layer):
    """SegFormer's attention: keys and values of fewer pixels."""

    def __init__(self, width: int, heads: int, ratio: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.heads, self.ratio = width, heads, ratio
        self.query, self.key_value = layers.Dense(width), layers.Dense(2 * width)
        self.projection = layers.Dense(width)
        self.reduction = layers.Conv2D(width, ratio, ratio) if ratio > 1 else None
        self.norm = layers.LayerNormalization(epsilon=1e-5) if ratio > 1 else None

    def call(self, x: Any) -> Any:
        """Returns (batch, height, width, channels)."""
        _, rows, columns, width = x.shape
        each = width // self.heads
        query = ops.reshape(self.query(x), (-1, rows * columns, self.heads, each))
        query = ops.transpose(query, (0, 2, 1, 3))
        y = self.norm(self.reduction(x)) if self.reduction and self.norm else x
        count = y.shape[1] * y.shape[2]
        halves: Any = ops.split(self.key_value(y), 2, axis=-1)
        key, value = halves
        key = ops.transpose(ops.reshape(key, (-1, count, self.heads, each)), (0, 2, 3, 1))
        value = ops.transpose(ops.reshape(value, (-1, count, self.heads, each)), (0, 2, 1, 3))
        weights = ops.softmax(ops.matmul(query, key) / each**0.5)
        y = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.projection(ops.reshape(y, (-1, rows, columns, width)))


def segformer(side: int = 64, widths: tuple[int, ...] = (16, 32), classes: int = 4) -> keras.Model:
    """Returns a SegFormer (Xie et al., 2021) of two stages: MiT, and dense layers."""
    inputs = keras.Input((side, side, 3), name="image")
    x, features = layers.Rescaling(1 / 255)(inputs), []
    for stage, (width, ratio) in enumerate(zip(widths, (2, 1), strict=True)):
        kernel, strides = (3, 2) if stage else (7, 4)
        x = layers.ZeroPadding2D(kernel // 2)(x)
        x = layers.Conv2D(width, kernel, strides=strides)(x)
        x = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        x = x + EfficientAttention(width, stage + 1, ratio)(y)
        y = layers.Dense(4 * width)(layers.LayerNormalization(epsilon=1e-5)(x))
        y = layers.DepthwiseConv2D(3, padding="same")(y)
        x = x + layers.Dense(width)(keras.activations.gelu(y))
        x = layers.LayerNormalization(epsilon=1e-5)(x)
        features.append(x)
    height, breadth = features[0].shape[1:3]
    resized = [
        layers.Resizing(height, breadth, interpolation="bilinear")(layers.Dense(32)(feature))
        for feature in features
    ]
    x = layers.Conv2D(32, 1, use_bias=False)(layers.Concatenate()(resized[::-1]))
    x = layers.Conv2D(classes, 1)(layers.ReLU()(layers.BatchNormalization()(x)))
    mask = layers.UpSampling2D(4, interpolation="bilinear", name="mask")(x)
    return keras.Model(inputs, mask, name="segformer")
