package org.example.classifier.check

import java.io.DataInputStream
import java.io.File
import java.nio.ByteBuffer
import org.example.classifier.ModelFile
import org.example.classifier.ModelFileException
import org.example.classifier.Picture
import org.example.classifier.answers
import org.example.classifier.decodingSteps
import org.example.classifier.inputOf
import org.example.classifier.valuesOf

/**
 * Runs the app's arithmetic without a phone, for tests on other ground truth.
 *
 *     inputs MODEL PICTURES CODES    what the model takes of each picture
 *     answers MODEL OUTPUTS          labels and confidences for outputs, one after the other
 *     upright PICTURES TURNED        each picture in all eight EXIF orientations
 *     steps WIDTH HEIGHT WANTED      how far a picture is shrunk while it is decoded
 *
 * PICTURES holds, for each, width and height as big-endian int32, then bytes R, G, B.
 */
fun main(arguments: Array<String>) {
    try {
        when (arguments[0]) {
            "inputs" -> inputs(read(arguments[1]), File(arguments[2]), File(arguments[3]))
            "answers" -> told(read(arguments[1]), File(arguments[2]))
            "upright" -> turned(File(arguments[1]), File(arguments[2]))
            "steps" -> println(arguments.drop(1).map { it.toInt() }.let { decodingSteps(it[0], it[1], it[2]) })
            else -> throw IllegalArgumentException(arguments[0])
        }
    } catch (error: ModelFileException) {
        println("refused: ${error.message}")
    }
}

private fun read(path: String): ModelFile = ModelFile.read(ByteBuffer.wrap(File(path).readBytes()))

private fun inputs(file: ModelFile, pictures: File, codes: File) {
    codes.outputStream().buffered().use { out ->
        pictures(pictures) { picture ->
            val input = inputOf(picture, file)
            out.write(ByteArray(input.remaining()) { input.get(it) })
        }
    }
}

private fun told(file: ModelFile, outputs: File) {
    val all = outputs.readBytes()
    val size = file.labels.size * file.output.storage.bytes
    for (start in all.indices step size) {
        val values = valuesOf(ByteBuffer.wrap(all, start, size).slice(), file)
        println(answers(values, file, 3).joinToString("\t") { "${it.label}\t${it.confidence}" })
    }
}

private fun turned(pictures: File, out: File) {
    out.outputStream().buffered().use { stream ->
        pictures(pictures) { picture ->
            for (orientation in 1..8) {
                for (pixel in picture.upright(orientation).pixels) {
                    for (shift in listOf(16, 8, 0)) stream.write(pixel shr shift and 0xff)
                }
            }
        }
    }
}

private fun pictures(file: File, use: (Picture) -> Unit) {
    DataInputStream(file.inputStream().buffered()).use { stream ->
        while (stream.available() > 0) {
            val (width, height) = Pair(stream.readInt(), stream.readInt())
            val bytes = ByteArray(3 * width * height)
            stream.readFully(bytes)
            use(Picture(width, height, IntArray(width * height) { color(bytes, 3 * it) }))
        }
    }
}

private fun color(bytes: ByteArray, at: Int): Int =
    (0 until 3).fold(0xff) { pixel, channel -> pixel shl 8 or (bytes[at + channel].toInt() and 0xff) }
