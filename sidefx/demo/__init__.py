"""The demo, `python -m sidefx.demo`: a small shop with its sinks at work, whose receivers misbehave on demand."""
