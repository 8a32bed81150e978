package androidx.activity;

import android.app.Activity;
import android.os.Bundle;
import androidx.activity.result.ActivityResultCallback;
import androidx.activity.result.ActivityResultLauncher;
import androidx.activity.result.contract.ActivityResultContract;

public class ComponentActivity extends Activity {
    @Override protected void onCreate(Bundle savedInstanceState) {}
    @Override protected void onSaveInstanceState(Bundle outState) {}
    public final <I, O> ActivityResultLauncher<I> registerForActivityResult(
            ActivityResultContract<I, O> contract, ActivityResultCallback<O> callback) {
        throw new RuntimeException("stub");
    }
}
