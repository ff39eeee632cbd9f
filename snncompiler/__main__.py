"""python -m snncompiler: the command `snnc`."""

from snncompiler.cli import main

main()
