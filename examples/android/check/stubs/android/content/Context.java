package android.content;

import android.content.res.AssetManager;
import java.io.File;

public class Context {
    public AssetManager getAssets() { throw new RuntimeException("stub"); }
    public ContentResolver getContentResolver() { throw new RuntimeException("stub"); }
    public File getCacheDir() { throw new RuntimeException("stub"); }
    public String getPackageName() { throw new RuntimeException("stub"); }
    public final String getString(int id) { throw new RuntimeException("stub"); }
    public final String getString(int id, Object... values) { throw new RuntimeException("stub"); }
}
