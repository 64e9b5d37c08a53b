"""Photographs, data sets, crops and files: what goes into experiments and how it is written."""
