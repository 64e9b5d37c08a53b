"""Projections of whole networks: what is traced, planned, walked and sent back."""
