package org.example.classifier

import java.io.StringReader
import java.nio.ByteBuffer
import java.nio.charset.StandardCharsets
import java.util.Properties
import java.util.zip.DataFormatException

/** What is wrong with a file, in words for whoever put it into the app. */
class ModelFileException(message: String) : Exception(message)

/** How numbers are stored. */
enum class Storage(val code: Int, val bytes: Int, val lowest: Int, val highest: Int) {
    FLOAT32(0, 4, 0, 0),
    UINT8(3, 1, 0, 255),
    INT8(9, 1, -128, 127)
}

/** An input or output: real = scale * (code - zeroPoint), for 8-bit storage. */
class Tensor(val shape: List<Int>, val storage: Storage, val scale: Float, val zeroPoint: Int)

/** What a model's outputs are. */
enum class Gives { LOGITS, PROBABILITIES }

/** How the model's inputs are made of pixels: value = (pixel - mean) / std, pixels 0 to 255. */
class Normalization(val mean: List<Float>, val std: List<Float>)

/** How pictures come to the model's size; `crop` is the share of the centre that it sees. */
class Fitting(val isBgr: Boolean, val crop: Double, val resize: Resize)

/**
 * All that a classifier's file says of its input and output: in the model itself, in TFLite's
 * standard metadata, and in the archive behind the model.
 */
class ModelFile(
    val input: Tensor,
    val output: Tensor,
    val gives: Gives,
    val labels: List<String>,
    val normalization: Normalization,
    val fitting: Fitting
) {
    val height: Int get() = input.shape[1]
    val width: Int get() = input.shape[2]

    companion object {
        /**
         * Reads the content of a .tflite file.
         *
         * Raises ModelFileException if it is damaged, no classifier of images, or lacks metadata.
         */
        fun read(content: ByteBuffer): ModelFile {
            try {
                return Reader(content).file()
            } catch (error: IndexOutOfBoundsException) {
                throw damaged(error)
            } catch (error: IllegalArgumentException) {
                throw damaged(error)
            } catch (error: DataFormatException) {
                throw damaged(error)
            }
        }

        private fun damaged(error: Exception) =
            ModelFileException("The file is damaged, or no .tflite file: ${error.message}.")
    }
}

// Places of fields in TFLite's schema.fbs and metadata_schema.fbs, and codes of enumerations there.
private const val RESHAPE = 22
private const val SOFTMAX = 25
private const val LOGISTIC = 14
private const val DIV = 42 // the end of a softmax that is computed in float
private const val QUANTIZE = 114
private const val DEQUANTIZE = 6
private val REWRITINGS = setOf(RESHAPE, QUANTIZE, DEQUANTIZE)
private val PROBABILITIES = setOf(SOFTMAX, LOGISTIC, DIV)
private const val NORMALIZATION = 1
private val LABEL_FILES = 2..3 // of an axis, of values
private const val METADATA = "TFLITE_METADATA"
private const val FITTING = "ddq_tf_fitting"
private const val HELP = "Export it with ddq export --labels=FILE --input_range=LOW,HIGH."

private class Reader(private val content: ByteBuffer) {
    private val model: Table
    private val graph: Table

    init {
        if (content.limit() < 8 || String(ByteArray(4) { content.get(4 + it) }) != "TFL3") {
            throw ModelFileException("This is no .tflite file.")
        }
        model = Table.root(content)
        graph = model.children(2).firstOrNull() ?: throw ModelFileException("The file is empty.")
    }

    fun file(): ModelFile {
        val ends = listOf(graph.ints(1), graph.ints(2))
        if (ends.any { it.size != 1 }) {
            throw ModelFileException(
                "A classifier has one input and one output. " +
                    "This file has ${ends[0].size} and ${ends[1].size}."
            )
        }
        val (input, output) = ends.map { tensor(it[0]) }
        if (input.shape.size != 4 || input.shape[3] != 3) {
            throw ModelFileException("The input must be an image in colours, not ${input.shape}.")
        }
        val metadata = metadata()
        val described = metadata.children(3).firstOrNull()
            ?: throw ModelFileException("The file's metadata tell nothing of its input. $HELP")
        val labels = labels(described)
        val classes = output.shape.last()
        if (labels.size != classes) {
            throw ModelFileException("The file has $classes classes, but ${labels.size} labels.")
        }
        val normalization = normalization(described)
        return ModelFile(input, output, gives(ends[1][0]), labels, normalization, fitting(described))
    }

    private fun tensor(index: Int): Tensor {
        val found = graph.children(0)[index]
        val code = found.byte(1)
        val storage = Storage.values().firstOrNull { it.code == code } ?: throw ModelFileException(
            "Input and output must be int8, uint8 or float32, not TFLite's type $code."
        )
        val grid = found.child(4)
        val scale = grid?.floats(2)?.firstOrNull()
        if (scale == null && storage != Storage.FLOAT32) {
            throw ModelFileException("Input and output must have scales.")
        }
        val zeroPoint = grid?.longs(3)?.firstOrNull() ?: 0L
        return Tensor(found.ints(0), storage, scale ?: 1f, zeroPoint.toInt())
    }

    private fun metadata(): Table {
        val entry = model.children(6).firstOrNull { it.text(0) == METADATA }
            ?: throw ModelFileException("The file has no metadata. $HELP")
        return Table.root(ByteBuffer.wrap(model.children(4)[entry.int(1)].bytes(0)))
    }

    private fun labels(described: Table): List<String> {
        val file = described.children(3).firstOrNull()?.children(6)
            ?.firstOrNull { it.byte(2) in LABEL_FILES }?.text(0)
            ?: throw ModelFileException("The file's metadata name no labels. $HELP")
        val text = Archive(content).read(file)
            ?: throw ModelFileException("The file lacks the labels $file that it names.")
        return String(text, StandardCharsets.UTF_8).removeSuffix("\n").split("\n")
    }

    private fun normalization(described: Table): Normalization {
        val unit = described.children(2).firstOrNull()?.children(4)
            ?.firstOrNull { it.byte(0) == NORMALIZATION }?.child(1)
            ?: throw ModelFileException("The file does not tell its input range. $HELP")
        val (mean, std) = Pair(unit.floats(0), unit.floats(1))
        if (setOf(mean.size, std.size).any { it != 1 && it != 3 } || 0f in std) {
            throw ModelFileException("mean and std must have 1 or 3 numbers: $mean, $std.")
        }
        return Normalization(List(3) { mean[it % mean.size] }, List(3) { std[it % std.size] })
    }

    private fun fitting(described: Table): Fitting {
        val told = Properties()
        described.children(9).filter { it.text(0) == FITTING }.forEach {
            told.load(StringReader(String(it.bytes(1), StandardCharsets.UTF_8)))
        }
        val name = told.getProperty("resize", "bilinear")
        val resize = Resize.values().firstOrNull { it.word == name }
            ?: throw ModelFileException("This app does not resize by \"$name\".")
        val crop = told.getProperty("crop", "1.0").toDouble()
        return Fitting(told.getProperty("channels", "rgb") == "bgr", crop, resize)
    }

    /** Follows an output back to the operator that computes it. */
    private fun gives(output: Int): Gives {
        var tensor = output
        for (operator in graph.children(3).asReversed()) {
            if (tensor !in operator.ints(2)) continue
            val known = model.children(1)[operator.int(0)]
            val kind = maxOf(known.byte(0), known.int(3)) // the schema's own rule
            if (kind !in REWRITINGS) {
                return if (kind in PROBABILITIES) Gives.PROBABILITIES else Gives.LOGITS
            }
            tensor = operator.ints(1)[0]
        }
        return Gives.LOGITS
    }
}
