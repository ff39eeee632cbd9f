"""The Processes and their models, alone here, for Lava executes every file of their folder."""
