package org.example.classifier

import android.content.ContentResolver
import android.content.Context
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.net.Uri
import androidx.core.content.FileProvider
import androidx.exifinterface.media.ExifInterface
import java.io.File
import java.io.IOException
import java.io.InputStream
import kotlin.math.ceil

/** Decodes a picture, upright, not much larger than the model needs; raises IOException. */
fun decoded(resolver: ContentResolver, uri: Uri, file: ModelFile): Picture {
    val size = BitmapFactory.Options()
    size.inJustDecodeBounds = true
    opened(resolver, uri) { BitmapFactory.decodeStream(it, null, size) }
    if (size.outWidth <= 0 || size.outHeight <= 0) throw IOException("This is no picture.")
    val options = BitmapFactory.Options()
    val wanted = ceil(maxOf(file.width, file.height) / file.fitting.crop).toInt()
    options.inSampleSize = decodingSteps(size.outWidth, size.outHeight, wanted)
    options.inPreferredConfig = Bitmap.Config.ARGB_8888
    options.inPremultiplied = false // training decodes colours and drops the alpha channel
    val bitmap = opened(resolver, uri) { BitmapFactory.decodeStream(it, null, options) }
        ?: throw IOException("This picture cannot be decoded.")
    val picture = pictureOf(bitmap)
    bitmap.recycle()
    val orientation = opened(resolver, uri) {
        ExifInterface(it)
            .getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
    }
    return picture.upright(orientation)
}

/** Returns where the camera may put a photograph; the one before it is gone. */
fun photograph(context: Context): Uri {
    val folder = File(context.cacheDir, "photographs")
    if (!folder.isDirectory && !folder.mkdirs()) throw IOException("There is no room for a photograph.")
    folder.listFiles()?.forEach { it.delete() }
    val file = File.createTempFile("photograph", ".jpg", folder)
    return FileProvider.getUriForFile(context, "${context.packageName}.pictures", file)
}

fun bitmapOf(picture: Picture): Bitmap =
    Bitmap.createBitmap(picture.pixels, picture.width, picture.height, Bitmap.Config.ARGB_8888)

private fun pictureOf(bitmap: Bitmap): Picture {
    val pixels = IntArray(bitmap.width * bitmap.height)
    bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
    return Picture(bitmap.width, bitmap.height, pixels)
}

private fun <T> opened(resolver: ContentResolver, uri: Uri, use: (InputStream) -> T): T {
    val stream = resolver.openInputStream(uri) ?: throw IOException("The picture is gone.")
    return stream.use(use)
}
