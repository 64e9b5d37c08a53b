"""The engine under the signatures of other tools."""
