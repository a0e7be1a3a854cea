"""One file per optimizer. A rule imports core and linalg, never another rule."""
