package androidx.activity.result

import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia.VisualMediaType

class PickVisualMediaRequest internal constructor() {
    class Builder {
        fun setMediaType(mediaType: VisualMediaType): Builder = this
        fun build(): PickVisualMediaRequest = PickVisualMediaRequest()
    }
}
