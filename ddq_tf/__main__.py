"""`python -m ddq_tf` is the `ddq` command."""

from ddq_tf.cli import run

if __name__ == "__main__":
    raise SystemExit(run())
