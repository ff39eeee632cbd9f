"""Stage I of Wang et al. 2023: train an ANN a little for its spiking life.

The only rooms that import torch; the door (`snncompiler/finetuning.py`) opens them on demand.
"""
