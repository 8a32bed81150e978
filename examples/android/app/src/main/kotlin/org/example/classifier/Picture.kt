package org.example.classifier

import kotlin.math.min

/** A decoded picture: pixels row by row, each 0xAARRGGBB. */
class Picture(val width: Int, val height: Int, val pixels: IntArray) {

    init {
        require(width > 0 && height > 0 && pixels.size == width * height) {
            "${pixels.size} pixels for $width x $height"
        }
    }

    /** Returns the picture as it was meant to be seen, given its EXIF orientation, 1 to 8. */
    fun upright(orientation: Int): Picture {
        val (w, h) = Pair(width, height)
        return when (orientation) {
            2 -> moved(w, h) { x, y -> at(w - 1 - x, y) }
            3 -> moved(w, h) { x, y -> at(w - 1 - x, h - 1 - y) }
            4 -> moved(w, h) { x, y -> at(x, h - 1 - y) }
            5 -> moved(h, w) { x, y -> at(y, x) }
            6 -> moved(h, w) { x, y -> at(y, h - 1 - x) }
            7 -> moved(h, w) { x, y -> at(w - 1 - y, h - 1 - x) }
            8 -> moved(h, w) { x, y -> at(w - 1 - y, x) }
            else -> this
        }
    }

    fun part(left: Int, top: Int, width: Int, height: Int): Picture =
        moved(width, height) { x, y -> at(left + x, top + y) }

    private fun at(x: Int, y: Int): Int = pixels[y * width + x]

    private inline fun moved(width: Int, height: Int, pixel: (Int, Int) -> Int): Picture {
        val moved = IntArray(width * height)
        for (y in 0 until height) {
            for (x in 0 until width) moved[y * width + x] = pixel(x, y)
        }
        return Picture(width, height, moved)
    }
}

/**
 * Cuts the centre in the right proportions and resizes it, as `ddq_tf.data` does.
 *
 * A picture that has the size already stays as it is, unless a part of it is wanted.
 */
fun fitted(picture: Picture, width: Int, height: Int, crop: Double, resize: Resize): Picture {
    if (crop == 1.0 && picture.width == width && picture.height == height) return picture
    val scale = min(picture.height / height.toDouble(), picture.width / width.toDouble()) * crop
    val partHeight = Math.rint(scale * height).toInt().coerceIn(1, picture.height)
    val partWidth = Math.rint(scale * width).toInt().coerceIn(1, picture.width)
    val (left, top) = Pair((picture.width - partWidth) / 2, (picture.height - partHeight) / 2)
    return resized(picture.part(left, top, partWidth, partHeight), width, height, resize)
}

/**
 * Returns by how much a picture may be shrunk while it is decoded, a power of two.
 *
 * Training saw pictures shrunk in one step. So this leaves four pixels for each that the model takes
 * in a row or column, and touches only pictures of more than 4 million pixels.
 */
fun decodingSteps(width: Int, height: Int, wanted: Int): Int {
    var steps = 1
    while (
        width.toLong() / steps * (height / steps) > MOST_PIXELS &&
        min(width, height) / (2 * steps) >= PIXELS_FOR_ONE * wanted
    ) {
        steps *= 2
    }
    return steps
}

private const val MOST_PIXELS = 4_000_000L
private const val PIXELS_FOR_ONE = 4
