"""How fast and how right: projections beside other implementations."""
