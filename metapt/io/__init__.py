"""The impure edge: run folders, checkpoints, progress, tables, plots. Nothing below imports it."""
