package org.example.classifier

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.charset.StandardCharsets
import java.util.zip.Inflater

private const val END = 0x06054b50 // "PK", 5, 6: begins the end of an archive
private const val END_BYTES = 22
private const val LONGEST_COMMENT = 0xffff
private const val STORED = 0
private const val DEFLATED = 8

/** The zip archive behind a model: the files that its metadata name. */
class Archive(content: ByteBuffer) {
    private val bytes = content.duplicate().order(ByteOrder.LITTLE_ENDIAN)

    /** Returns a file's content, null if there is no archive or no such file in it. */
    fun read(name: String): ByteArray? {
        val end = end() ?: return null
        var at = bytes.getInt(end + 16)
        repeat(short(end + 10)) {
            val (nameBytes, extra, comment) = Triple(short(at + 28), short(at + 30), short(at + 32))
            if (String(copy(at + 46, nameBytes), StandardCharsets.UTF_8) == name) return entry(at)
            at += 46 + nameBytes + extra + comment
        }
        return null
    }

    private fun end(): Int? {
        val last = bytes.limit() - END_BYTES
        return (last downTo maxOf(0, last - LONGEST_COMMENT)).firstOrNull { bytes.getInt(it) == END }
    }

    /** The content that an entry of the archive's directory tells of. */
    private fun entry(at: Int): ByteArray {
        val (packed, size) = Pair(bytes.getInt(at + 20), bytes.getInt(at + 24))
        val local = bytes.getInt(at + 42)
        val data = copy(local + 30 + short(local + 26) + short(local + 28), packed)
        return when (val method = short(at + 10)) {
            STORED -> data
            DEFLATED -> inflated(data, size)
            else -> throw IllegalArgumentException("a zip archive packed by method $method")
        }
    }

    private fun inflated(data: ByteArray, size: Int): ByteArray {
        require(size in 0..1024 * data.size) { "an archive that unpacks to $size bytes" }
        val inflater = Inflater(true)
        inflater.setInput(data)
        val unpacked = ByteArray(size)
        var filled = 0
        while (filled < size && !inflater.finished()) {
            val count = inflater.inflate(unpacked, filled, size - filled)
            require(count > 0) { "a damaged zip archive" }
            filled += count
        }
        inflater.end()
        return unpacked
    }

    private fun short(at: Int): Int = bytes.getShort(at).toInt() and 0xffff

    private fun copy(first: Int, length: Int): ByteArray {
        require(length in 0..bytes.limit()) { "a file of $length bytes in an archive" }
        return ByteArray(length) { bytes.get(first + it) }
    }
}
