package org.example.classifier

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.exp

/** A class and how sure the model is of it, from 0 to 1. */
class Answer(val label: String, val confidence: Double)

/** Returns what the model takes of a picture: codes, or float32 in the machine's order. */
fun inputOf(picture: Picture, file: ModelFile): ByteBuffer {
    val fitting = file.fitting
    val fits = fitted(picture, file.width, file.height, fitting.crop, fitting.resize)
    val storage = file.input.storage
    val buffer = ByteBuffer.allocateDirect(3 * fits.pixels.size * storage.bytes)
    buffer.order(ByteOrder.nativeOrder())
    val values = List(3) { channel -> levels(file.normalization, channel) }
    val codes = List(3) { channel -> ByteArray(256) { code(values[channel][it], file.input) } }
    for (pixel in fits.pixels) {
        for (channel in 0 until 3) {
            val shift = if (fitting.isBgr) 8 * channel else 16 - 8 * channel
            val level = pixel shr shift and 0xff
            if (storage == Storage.FLOAT32) buffer.putFloat(values[channel][level])
            else buffer.put(codes[channel][level])
        }
    }
    buffer.rewind()
    return buffer
}

/** What each level from 0 to 255 becomes in a channel, computed as in training: level * step + low. */
private fun levels(normalization: Normalization, channel: Int): FloatArray {
    val (mean, std) = Pair(normalization.mean[channel].toDouble(), normalization.std[channel].toDouble())
    val (step, low) = Pair((1 / std).toFloat(), (-mean / std).toFloat())
    return FloatArray(256) { it.toFloat() * step + low }
}

/** The nearest code, halves to even, as Keras and TFLite's QUANTIZE compute it in float32. */
private fun code(value: Float, tensor: Tensor): Byte {
    val nearest = Math.rint((value * (1f / tensor.scale)).toDouble()) + tensor.zeroPoint
    val (low, high) = Pair(tensor.storage.lowest.toDouble(), tensor.storage.highest.toDouble())
    return nearest.coerceIn(low, high).toInt().toByte()
}

/** Returns what the model's output stands for; `output` is as the runtime leaves it. */
fun valuesOf(output: ByteBuffer, file: ModelFile): FloatArray {
    val (tensor, bytes) = Pair(file.output, output.duplicate().order(ByteOrder.nativeOrder()))
    return FloatArray(file.labels.size) {
        when (tensor.storage) {
            Storage.FLOAT32 -> bytes.getFloat(4 * it)
            Storage.INT8 -> (bytes.get(it).toInt() - tensor.zeroPoint) * tensor.scale
            Storage.UINT8 -> ((bytes.get(it).toInt() and 0xff) - tensor.zeroPoint) * tensor.scale
        }
    }
}

/** Returns the most likely classes, the best first; of equal ones the first stays first. */
fun answers(values: FloatArray, file: ModelFile, most: Int): List<Answer> {
    val confidences = when {
        file.gives == Gives.PROBABILITIES -> values.map { it.toDouble() }
        values.size == 1 -> listOf(1 / (1 + exp(-values[0].toDouble())))
        else -> softmax(values)
    }
    return confidences.indices.sortedByDescending { confidences[it] }.take(most)
        .map { Answer(file.labels[it], confidences[it]) }
}

private fun softmax(values: FloatArray): List<Double> {
    var highest = values[0]
    for (value in values) if (value > highest) highest = value
    val powers = values.map { exp(it.toDouble() - highest) }
    val total = powers.sum()
    return powers.map { it / total }
}
