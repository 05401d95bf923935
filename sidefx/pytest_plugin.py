"""pytest fixtures of sidefx, found by pytest itself once sidefx is installed."""
