"""The commands of `logos` that are large enough for a module of their own; registered at the end of `logos.cli`."""
