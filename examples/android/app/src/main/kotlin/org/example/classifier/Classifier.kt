package org.example.classifier

import android.content.res.AssetManager
import java.io.Closeable
import java.io.FileInputStream
import java.io.FileNotFoundException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import org.tensorflow.lite.Interpreter

/** The most likely classes of a picture, and how long the model itself took. */
class Seen(val answers: List<Answer>, val milliseconds: Double)

/** The model that `ddq export --android` has put into the assets, on the CPU. For one thread only. */
class Classifier private constructor(val file: ModelFile, content: ByteBuffer) : Closeable {
    private val interpreter = Interpreter(content, options())
    private val output =
        ByteBuffer.allocateDirect(file.labels.size * file.output.storage.bytes)
            .order(ByteOrder.nativeOrder())

    fun classify(picture: Picture): Seen {
        val input = inputOf(picture, file)
        output.rewind()
        val start = System.nanoTime()
        interpreter.run(input, output)
        val nanoseconds = System.nanoTime() - start
        return Seen(answers(valuesOf(output, file), file, ANSWERS), nanoseconds / 1e6)
    }

    override fun close() = interpreter.close()

    companion object {
        private const val ASSET = "model.tflite"
        private const val ANSWERS = 3
        private const val THREADS = 4

        /** Raises ModelFileException if there is no model, or the runtime refuses it. */
        fun open(assets: AssetManager): Classifier {
            val content = content(assets)
            val file = ModelFile.read(content)
            try {
                return Classifier(file, content)
            } catch (error: IllegalArgumentException) {
                throw ModelFileException("LiteRT refuses the model: ${error.message}")
            } catch (error: IllegalStateException) {
                throw ModelFileException("LiteRT refuses the model: ${error.message}")
            }
        }

        private fun content(assets: AssetManager): ByteBuffer {
            try {
                return assets.openFd(ASSET).use { asset ->
                    FileInputStream(asset.fileDescriptor).use { stream ->
                        stream.channel.map(
                            FileChannel.MapMode.READ_ONLY, asset.startOffset, asset.declaredLength
                        )
                    }
                }
            } catch (error: FileNotFoundException) {
                throw ModelFileException(
                    "There is no model in this app. Put it there with " +
                        "ddq export ... --labels=FILE --android=examples/android, and build again."
                )
            }
        }

        private fun options(): Interpreter.Options {
            val options = Interpreter.Options()
            options.setNumThreads(minOf(THREADS, Runtime.getRuntime().availableProcessors()))
            // The built-in kernels round differently: the codes are those that ddq verify checked
            // under XNNPACK only.
            options.setUseXNNPACK(true)
            return options
        }
    }
}
