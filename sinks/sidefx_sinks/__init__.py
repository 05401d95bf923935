"""The sinks that come with sidefx; each uses only what `sidefx` makes public."""
