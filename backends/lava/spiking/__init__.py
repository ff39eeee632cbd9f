"""A spiking network on Lava: what every emitted bundle holds besides its own weights.

These files are copied into each bundle, so they import NumPy, Lava and one another, no more.
"""
