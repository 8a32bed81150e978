package android.app;

import android.content.Context;
import android.os.Bundle;
import android.view.View;

public class Activity extends Context {
    protected void onCreate(Bundle savedInstanceState) {}
    protected void onSaveInstanceState(Bundle outState) {}
    protected void onDestroy() {}
    public void setContentView(int layout) {}
    public <T extends View> T findViewById(int id) { throw new RuntimeException("stub"); }
    public final void runOnUiThread(Runnable action) {}
}
