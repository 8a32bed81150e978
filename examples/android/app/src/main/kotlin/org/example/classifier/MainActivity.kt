package org.example.classifier

import android.content.ActivityNotFoundException
import android.net.Uri
import android.os.Bundle
import android.view.View
import android.widget.ImageView
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts
import java.io.IOException
import java.util.Locale
import java.util.concurrent.Executors

/** Shows a picture that the user picks or takes, and what the model sees in it. */
class MainActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor() // all work with the model
    private var classifier: Classifier? = null
    private var shown: Uri? = null
    private var expected: Uri? = null // where the camera was told to put its photograph

    // Both work without a permission: the user chooses in the system's own apps.
    private val pick = registerForActivityResult(ActivityResultContracts.PickVisualMedia()) { uri ->
        if (uri != null) show(uri)
    }
    private val take = registerForActivityResult(ActivityResultContracts.TakePicture()) { taken ->
        val uri = expected
        if (taken && uri != null) show(uri)
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        expected = savedInstanceState?.getString(EXPECTED)?.let { Uri.parse(it) }
        findViewById<View>(R.id.pick).setOnClickListener { startPicking() }
        findViewById<View>(R.id.take).setOnClickListener { startTaking() }
        savedInstanceState?.getString(SHOWN)?.let { show(Uri.parse(it)) }
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putString(SHOWN, shown?.toString())
        outState.putString(EXPECTED, expected?.toString())
    }

    override fun onDestroy() {
        worker.execute { classifier?.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun startPicking() {
        val images = ActivityResultContracts.PickVisualMedia.ImageOnly
        pick.launch(PickVisualMediaRequest.Builder().setMediaType(images).build())
    }

    private fun startTaking() {
        try {
            val uri = photograph(this)
            expected = uri
            take.launch(uri)
        } catch (error: ActivityNotFoundException) {
            tell(getString(R.string.no_camera))
        } catch (error: IOException) {
            tell(error.message.orEmpty())
        }
    }

    private fun show(uri: Uri) {
        shown = uri
        tell(getString(R.string.working))
        worker.execute {
            val words = wordsFor(uri)
            runOnUiThread { if (shown == uri) tell(words) }
        }
    }

    private fun draw(uri: Uri, picture: Picture) {
        val bitmap = bitmapOf(picture)
        runOnUiThread {
            if (shown == uri) findViewById<ImageView>(R.id.picture).setImageBitmap(bitmap)
        }
    }

    private fun wordsFor(uri: Uri): String = try {
        val model = classifier ?: Classifier.open(assets).also { classifier = it }
        val picture = decoded(contentResolver, uri, model.file)
        draw(uri, picture)
        words(model.classify(picture))
    } catch (error: ModelFileException) {
        error.message.orEmpty()
    } catch (error: IOException) {
        getString(R.string.unreadable, error.message.orEmpty())
    } catch (error: SecurityException) {
        getString(R.string.unreadable, error.message.orEmpty())
    } catch (error: OutOfMemoryError) {
        getString(R.string.too_large)
    }

    private fun words(seen: Seen): String {
        val lines = seen.answers.map {
            getString(R.string.answer, it.label, String.format(Locale.getDefault(), "%.1f", 100 * it.confidence))
        }
        val time = String.format(Locale.getDefault(), "%.1f", seen.milliseconds)
        return (lines + getString(R.string.time, time)).joinToString("\n")
    }

    private fun tell(words: String) {
        findViewById<TextView>(R.id.answers).text = words
    }

    private companion object {
        const val SHOWN = "shown"
        const val EXPECTED = "expected"
    }
}
