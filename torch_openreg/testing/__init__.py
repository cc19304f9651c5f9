"""The conformance tool: does a device compute what the CPU computes?

`python -m torch_openreg.testing --help` says how to use it; docs/testing.md explains it. It
runs for any device that torch knows, and imports nothing of the device openreg.
"""
