package org.example.classifier

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max

/** How pictures are resized; the names are those of `tf.image.resize`. */
enum class Resize(val word: String) {
    BILINEAR("bilinear"),
    BICUBIC("bicubic"),
    NEAREST("nearest")
}

/**
 * Resizes as `tf.image.resize(antialias=True)` does and rounds to whole levels.
 *
 * The arithmetic is TensorFlow's (kernels scale_and_translate and resize_nearest_neighbor), in its
 * order and in float32, so that no pixel differs.
 */
fun resized(picture: Picture, width: Int, height: Int, resize: Resize): Picture =
    if (resize == Resize.NEAREST) nearest(picture, width, height)
    else smoothed(picture, width, height, resize)

private fun nearest(picture: Picture, width: Int, height: Int): Picture {
    val rows = IntArray(height) { nearestIndex(it, height, picture.height) }
    val columns = IntArray(width) { nearestIndex(it, width, picture.width) }
    val pixels = IntArray(width * height) {
        picture.pixels[rows[it / width] * picture.width + columns[it % width]]
    }
    return Picture(width, height, pixels)
}

private fun nearestIndex(index: Int, size: Int, sourceSize: Int): Int {
    val scale = sourceSize.toFloat() / size.toFloat()
    return floor((index + 0.5f) * scale).toInt().coerceAtMost(sourceSize - 1)
}

/** What one row or column of the result is the weighted sum of. */
private class Span(val start: Int, val weights: FloatArray)

private fun smoothed(picture: Picture, width: Int, height: Int, resize: Resize): Picture {
    val rows = gatheredRows(picture, spans(height, picture.height, resize))
    val columns = spans(width, picture.width, resize)
    val pixels = IntArray(width * height)
    for (y in 0 until height) {
        for (x in 0 until width) {
            var pixel = 0xff
            for (channel in 0 until 3) pixel = pixel shl 8 or level(rows[y], columns[x], channel)
            pixels[y * width + x] = pixel
        }
    }
    return Picture(width, height, pixels)
}

/** Sums rows of pixels; in each result the three colours of a pixel follow each other. */
private fun gatheredRows(picture: Picture, spans: List<Span>): List<FloatArray> = spans.map { span ->
    val sums = FloatArray(3 * picture.width)
    for ((index, weight) in span.weights.withIndex()) {
        val first = (span.start + index) * picture.width
        for (x in 0 until picture.width) {
            val pixel = picture.pixels[first + x]
            sums[3 * x] += weight * (pixel shr 16 and 0xff).toFloat()
            sums[3 * x + 1] += weight * (pixel shr 8 and 0xff).toFloat()
            sums[3 * x + 2] += weight * (pixel and 0xff).toFloat()
        }
    }
    sums
}

private fun level(row: FloatArray, span: Span, channel: Int): Int {
    var sum = 0f
    for ((index, weight) in span.weights.withIndex()) {
        sum += weight * row[3 * (span.start + index) + channel]
    }
    return Math.rint(sum.toDouble()).toInt().coerceIn(0, 255)
}

private fun spans(size: Int, sourceSize: Int, resize: Resize): List<Span> {
    val scale = size.toFloat() / sourceSize.toFloat()
    val step = (1.0 / scale).toFloat()
    val stretch = max(step, 1f) // shrinking smooths, enlarging only interpolates
    val reach = (if (resize == Resize.BICUBIC) 2f else 1f) * stretch
    val inverse = 1f / stretch
    return List(size) { index ->
        val centre = (index + 0.5f) * step
        val last = sourceSize - 1
        val start = ceil(centre - reach - 0.5f).toInt().coerceIn(0, last)
        val end = floor(centre + reach - 0.5f).toInt().coerceIn(0, last)
        val raw = FloatArray(end - start + 1) {
            weight(abs(((start + it).toFloat() + 0.5f - centre) * inverse), resize)
        }
        var total = 0f
        for (weight in raw) total += weight
        val share = 1f / total
        Span(start, FloatArray(raw.size) { raw[it] * share })
    }
}

private fun weight(distance: Float, resize: Resize): Float = when {
    resize == Resize.BILINEAR -> if (distance < 1f) 1f - distance else 0f
    distance >= 2f -> 0f
    distance >= 1f -> ((-0.5f * distance + 2.5f) * distance - 4f) * distance + 2f
    else -> ((1.5f * distance - 2.5f) * distance) * distance + 1f
}
