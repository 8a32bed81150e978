package android.content.res;

import java.io.Closeable;
import java.io.FileDescriptor;
import java.io.IOException;

public class AssetFileDescriptor implements Closeable {
    public FileDescriptor getFileDescriptor() { throw new RuntimeException("stub"); }
    public long getStartOffset() { throw new RuntimeException("stub"); }
    public long getDeclaredLength() { throw new RuntimeException("stub"); }
    @Override public void close() throws IOException {}
}
