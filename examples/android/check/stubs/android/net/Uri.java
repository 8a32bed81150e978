package android.net;

public abstract class Uri {
    public static Uri parse(String text) { throw new RuntimeException("stub"); }
}
