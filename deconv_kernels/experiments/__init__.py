"""The experiments of the paper, one file each, built on the public engine."""
