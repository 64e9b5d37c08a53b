"""The engine: a network as steps, what one forward pass of it keeps, and the way back from its units to pixels."""
