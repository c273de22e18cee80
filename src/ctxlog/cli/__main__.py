"""`python -m ctxlog.cli`: the same as `ctxlog`."""

from ctxlog.cli import main

main()
