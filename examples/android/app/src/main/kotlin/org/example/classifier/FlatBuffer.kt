package org.example.classifier

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.charset.StandardCharsets

/**
 * A table of a flatbuffer. Fields are given by their places in the schema.
 *
 * Damaged content raises IndexOutOfBoundsException, or IllegalArgumentException.
 */
class Table private constructor(private val bytes: ByteBuffer, private val start: Int) {

    fun has(field: Int): Boolean = place(field) != null

    fun byte(field: Int, default: Int = 0): Int = place(field)?.let { bytes.get(it).toInt() } ?: default

    fun int(field: Int, default: Int = 0): Int = place(field)?.let { bytes.getInt(it) } ?: default

    fun text(field: Int): String {
        val (first, length) = vector(field) ?: return ""
        return String(copy(first, length), StandardCharsets.UTF_8)
    }

    fun child(field: Int): Table? = place(field)?.let { Table(bytes, it + bytes.getInt(it)) }

    fun children(field: Int): List<Table> = elements(field, 4) { Table(bytes, it + bytes.getInt(it)) }

    fun bytes(field: Int): ByteArray = vector(field)?.let { copy(it.first, it.second) } ?: ByteArray(0)

    fun ints(field: Int): List<Int> = elements(field, 4) { bytes.getInt(it) }

    fun longs(field: Int): List<Long> = elements(field, 8) { bytes.getLong(it) }

    fun floats(field: Int): List<Float> = elements(field, 4) { bytes.getFloat(it) }

    /** Where a field lies, null if it is absent. */
    private fun place(field: Int): Int? {
        val fields = start - bytes.getInt(start)
        val entry = 4 + 2 * field
        if (entry >= bytes.getShort(fields)) return null
        val offset = bytes.getShort(fields + entry).toInt()
        return if (offset == 0) null else start + offset
    }

    /** Where the elements of a vector begin, and how many there are; null if it is absent. */
    private fun vector(field: Int): Pair<Int, Int>? = place(field)?.let {
        val at = it + bytes.getInt(it)
        Pair(at + 4, bytes.getInt(at))
    }

    private fun <T> elements(field: Int, width: Int, read: (Int) -> T): List<T> {
        val (first, count) = vector(field) ?: return emptyList()
        require(count in 0..bytes.limit() / width) { "a vector of $count elements" }
        return List(count) { read(first + width * it) }
    }

    private fun copy(first: Int, length: Int): ByteArray {
        require(length in 0..bytes.limit()) { "a vector of $length bytes" }
        return ByteArray(length) { bytes.get(first + it) }
    }

    companion object {
        fun root(content: ByteBuffer): Table {
            val bytes = content.duplicate().order(ByteOrder.LITTLE_ENDIAN)
            return Table(bytes, bytes.getInt(0))
        }
    }
}
