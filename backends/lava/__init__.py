"""The Lava backend: the emitted bundle, run by a Python that has lava-nc, in a guarded process."""
