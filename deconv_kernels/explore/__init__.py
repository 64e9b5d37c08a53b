"""The explorer: a network and photographs to look at in the browser, unit by unit."""
