"""Writes docs/operators.md: the way each ATen operator runs on openreg.

python -m tools.operator_table           # write the page
python -m tools.operator_table --count   # run the workloads again first
"""
