"""Graph rewrites, one file each; every pass takes a Graph and returns a new one."""
